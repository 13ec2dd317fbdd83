"""Interventions against hand-written hooks: exact, graded, right in chunks, batches and generation."""

from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS

import mcr_lens as mcr
from mcr_lens.errors import InputError

TOKENS = torch.tensor([[1, 7, 9, 23, 5, 40, 11, 8]])
N_LAYERS = 3


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, llama_folder: Any) -> Any:
    return mcr.load_model(llama_folder, backend=request.param)


def activations(model: Any, hooks: list[Any], names: list[str]) -> dict[str, torch.Tensor]:
    """What the named points give under hooks, by plain hooks of our own."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        return name, lambda tensor, hook: seen.__setitem__(name, tensor.detach().clone())

    with torch.no_grad():
        model.run_with_hooks(TOKENS, fwd_hooks=[*hooks, *map(keep, names)])
    return seen


def ragged() -> mcr.Prompts:
    rng = np.random.default_rng(3)
    return mcr.Prompts.from_tokens([[1, *rng.integers(3, 64, n).tolist()] for n in (11, 5, 19, 8)])


@pytest.mark.parametrize("position", [0, 3, -1])
@pytest.mark.parametrize("dose", [0.25, 0.5, 0.75, 1.0])
def test_the_write_kept_is_one_minus_dose(model: Any, position: int, dose: float) -> None:
    names = [
        f"blocks.1.{point}"
        for point in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    ]
    before = activations(model, [], names)
    after = activations(model, mcr.ablate_mlp_write([1], position, dose), names)
    pre, attention, write, post = (before[name] for name in names)
    assert torch.equal(after[names[0]], pre)
    assert torch.equal(after[names[1]], attention)
    expected = post.clone()
    expected[:, position] = (pre + attention + (1 - dose) * write)[:, position]
    torch.testing.assert_close(after[names[3]], expected, rtol=1e-5, atol=1e-6)
    others = [i for i in range(TOKENS.shape[1]) if i != position % TOKENS.shape[1]]
    assert torch.equal(after[names[3]][:, others], post[:, others])


def test_dose_zero_is_bit_identical(model: Any) -> None:
    with torch.no_grad():
        base = model(TOKENS)
    lists = [
        mcr.ablate_mlp_write([0, 2], dose=0),
        mcr.ablate_attention_write([1], dose=0),
        mcr.clamp_norm([1], dose=0),
        mcr.zero_dimensions([1], [3], dose=0),
        mcr.block_attention_to(0, [0, 1], dose=0),
    ]
    for hooks in lists:
        with torch.no_grad():
            assert torch.equal(model.run_with_hooks(TOKENS, fwd_hooks=hooks), base)


def test_attention_write_norm_and_dimensions(model: Any) -> None:
    names = [
        "blocks.1.hook_resid_pre",
        "blocks.1.hook_attn_out",
        "blocks.1.hook_mlp_out",
        "blocks.1.hook_resid_post",
    ]
    before = activations(model, [], names)
    post = before[names[3]]
    off = activations(model, mcr.ablate_attention_write([1], 2), names)
    assert (off[names[1]][:, 2] == 0).all()
    zeroed = activations(model, mcr.zero_dimensions([1], [3, 30], 4), names)[names[3]]
    expected = post.clone()
    expected[:, 4, [3, 30]] = 0
    assert torch.equal(zeroed, expected)
    norms = post[0].norm(dim=-1)
    limit = 0.5 * norms[1:].mean()
    clamped = activations(model, mcr.clamp_norm([1], max_ratio=0.5), names)[names[3]]
    torch.testing.assert_close(clamped[0, 0], post[0, 0] * limit / norms[0])
    assert torch.equal(clamped[:, 1:], post[:, 1:])
    assert torch.equal(activations(model, mcr.clamp_norm([1], max_ratio=1e6), names)[names[3]], post)


def test_blocked_attention_is_what_numpy_gives(model: Any) -> None:
    name = "blocks.1.attn.hook_pattern"
    before = activations(model, [], [name])[name][0].double().numpy()
    after = activations(model, mcr.block_attention_to(2, [1], heads=[0, 3]), [name])[name][0].numpy()
    expected = before.copy()
    for head in (0, 3):
        expected[head, 3:, 2] = 0
        expected[head, 3:] /= expected[head, 3:].sum(-1, keepdims=True)
    np.testing.assert_allclose(after, expected, atol=1e-6)
    plain = activations(model, mcr.block_attention_to(2, [1], renormalise=False), [name])[name][0].numpy()
    expected = before.copy()
    expected[:, 3:, 2] = 0
    np.testing.assert_allclose(plain, expected, atol=1e-7)


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_chunks_batches_and_order_change_nothing(model: Any, chunk: int | None) -> None:
    prompts = ragged()
    rest = [1.0, 2.0, 3.0, 4.0]
    hooks = [
        *mcr.ablate_mlp_write([1], position=4, dose=0.5),
        *mcr.clamp_norm([0], rest_norm=rest),
        *mcr.block_attention_to(-2, [2]),
        *mcr.ablate_attention_write([0], position=[3, 1, 2, 5]),
    ]
    whole = mcr.profile(model, prompts, interventions=hooks, batch_size=1, progress=False).data
    again = mcr.profile(model, prompts, interventions=hooks, chunk=chunk, progress=False).data
    for name in whole.data_vars:
        np.testing.assert_allclose(again[name], whole[name], rtol=1e-5, atol=1e-5, err_msg=str(name))
    untouched = mcr.profile(model, prompts, progress=False).data
    assert not np.allclose(untouched.norm_ratio, whole.norm_ratio)


def generated(model: Any, hooks: list[Any], cached: bool, tokens: torch.Tensor = TOKENS) -> list[int]:
    with model.hooks(fwd_hooks=hooks):
        options = {"do_sample": False, "verbose": False, "stop_at_eos": False, "return_type": "tokens"}
        out = model.generate(tokens, max_new_tokens=10, use_past_kv_cache=cached, **options)
    return out[0].tolist()


@pytest.mark.parametrize("position", [0, 3])
def test_generation_with_a_cache_equals_generation_without(model: Any, position: int) -> None:
    plain = generated(model, [], cached=True)
    lists = {
        "write": mcr.ablate_mlp_write(range(N_LAYERS), position),
        "dimensions": mcr.zero_dimensions([0, 1], range(16), position),
        "block": mcr.block_attention_to(position, range(N_LAYERS)),
        "patch": mcr.patch_activation("blocks.0.hook_resid_pre", torch.ones(1, 8, 32), position),
    }
    changed = 0
    for name, hooks in lists.items():
        with_cache = generated(model, hooks, cached=True)
        assert with_cache == generated(model, hooks, cached=False), name
        changed += with_cache != plain
    assert changed > 0


def test_the_newest_token_is_position_minus_one(model: Any) -> None:
    seen: list[tuple[int, bool]] = []

    def see(write: torch.Tensor, hook: Any) -> None:
        seen.append((write.shape[1], bool((write[:, -1] == 0).all())))

    generated(model, [*mcr.ablate_mlp_write([1], -1), ("blocks.1.hook_mlp_out", see)], cached=True)
    assert seen[0] == (8, True)
    assert seen[1:] == [(1, True)] * 9


def test_a_position_that_generation_will_reach_is_asked_for(model: Any) -> None:
    hooks = mcr.ablate_mlp_write(range(N_LAYERS), position=10)
    with pytest.raises(InputError, match=r"position 10 in a prompt of 8 tokens: .*growing"):
        generated(model, hooks, cached=True)
    with mcr.hooks.growing():
        with_cache = generated(model, mcr.ablate_mlp_write(range(N_LAYERS), position=10), cached=True)
        assert with_cache == generated(model, hooks, cached=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mcr.ablate_mlp_write([]), "no layer given"),
        (lambda: mcr.ablate_mlp_write([-1]), "counted from 0"),
        (lambda: mcr.ablate_mlp_write([True]), "counted from 0"),
        (lambda: mcr.ablate_mlp_write([1, 1]), "each once"),
        (lambda: mcr.ablate_mlp_write([1], dose=25), r"dose 25: use 0 \(untouched\) to 1"),
        (lambda: mcr.ablate_mlp_write([1], dose=float("nan")), "dose nan"),
        (lambda: mcr.clamp_norm([1], max_ratio=-1), "max_ratio -1"),
    ],
)
def test_bad_input_is_refused_when_the_list_is_built(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_what_a_model_lacks_is_refused_with_the_range(model: Any) -> None:
    lists = [
        (mcr.ablate_mlp_write([3]), r"layers are 0\.\.2"),
        (mcr.block_attention_to(0, [1], heads=[4]), r"heads 0\.\.3"),
        (mcr.ablate_mlp_write([1], position=6), r"shortest prompt has 6 tokens, 0\.\.5"),
        (mcr.patch_activation("blocks.1.hook_nothing", torch.ones(1, 30, 32)), "no hook"),
    ]
    for hooks, message in lists:
        with pytest.raises(InputError, match=message):
            mcr.profile(model, ragged(), interventions=hooks, progress=False)
    with pytest.raises(InputError, match=r"layers are 0\.\.2"):
        mcr.ablate_mlp_write([3], model=model)
    with pytest.raises(InputError, match=r"position 8 in a prompt of 8 tokens: use 0\.\.7"):
        model.run_with_hooks(TOKENS, fwd_hooks=mcr.ablate_mlp_write([1], position=8))
    # HookedTransformer refuses an unknown name by itself; the bridge of TransformerLens 3 does not.
    with pytest.raises((InputError, KeyError), match=r"blocks\.3\.hook_mlp_out"):
        model.run_with_hooks(TOKENS, fwd_hooks=mcr.ablate_mlp_write([3]))
    with pytest.raises(InputError, match=r"dimension 32: the residual stream has 0\.\.31"):
        model.run_with_hooks(TOKENS, fwd_hooks=mcr.zero_dimensions([1], [32]))
    with pytest.raises(InputError, match="leave out chunk="):
        mcr.profile(model, ragged(), interventions=mcr.clamp_norm([1]), chunk=3, progress=False)


def test_lists_compose_in_their_order_and_leave_nothing(model: Any) -> None:
    name = "blocks.1.hook_mlp_out"
    double = [(name, lambda write, hook: write * 2 + 1)]
    off = mcr.ablate_mlp_write([1])
    first = activations(model, off + double, [name])[name]
    second = activations(model, double + off, [name])[name]
    assert (first[:, 0] == 1).all()
    assert (second[:, 0] == 0).all()
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_what_was_done_is_recorded(model: Any) -> None:
    hooks = [*mcr.ablate_mlp_write([1], dose=0.5), ("blocks.0.hook_mlp_out", lambda write, hook: None)]
    made = mcr.profile(model, ragged(), interventions=hooks, progress=False).data.attrs["interventions"]
    assert made == ["ablate_mlp_write(layers=[1], position=0, dose=0.5)", "blocks.0.hook_mlp_out"]
