"""Interventions against hand-written hooks: exact, graded, in order, right in chunks and batches."""

from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS, needs_hooked_transformer
from families import DELEGATED, FAMILIES

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


@pytest.mark.parametrize("positions", [[0, 3, -1], [[0, 3, -1, 7]], np.array([0, 3, 7]), range(0, 8, 3)])
def test_several_positions_are_edited_once_each(model: Any, positions: Any) -> None:
    name = "blocks.1.hook_mlp_out"
    before = activations(model, [], [name])[name]
    after = activations(model, mcr.ablate_mlp_write([1], positions, 0.5), [name])[name]
    expected = before.clone()
    where = np.unique(np.ravel(positions) % 8)
    expected[:, where] *= 0.5
    assert torch.equal(after, expected)


def test_norms_of_several_tokens_are_compared_with_those_of_the_rest(model: Any) -> None:
    name = "blocks.1.hook_resid_post"
    post = activations(model, [], [name])[name][0]
    clamped = activations(model, mcr.clamp_norm([1], [0, 5], max_ratio=0.5), [name])[name][0]
    limit = 0.5 * post[[1, 2, 3, 4, 6, 7]].norm(dim=-1).mean()
    torch.testing.assert_close(clamped[[0, 5]].norm(dim=-1), limit.expand(2))


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


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_chunks_batches_and_order_change_nothing(model: Any, chunk: int | None) -> None:
    prompts = ragged()
    rest = [1.0, 2.0, 3.0, 4.0]
    hooks = [
        *mcr.ablate_mlp_write([1], positions=4, dose=0.5),
        *mcr.clamp_norm([0], rest_norm=rest),
        *mcr.block_attention_to(-2, [2]),
        *mcr.ablate_attention_write([0], positions=[[3], [1], [2], [5]]),
    ]
    whole = mcr.profile(model, prompts, interventions=hooks, batch_size=1, progress=False).data
    again = mcr.profile(model, prompts, interventions=hooks, chunk=chunk, progress=False).data
    for name in whole.data_vars:
        np.testing.assert_allclose(again[name], whole[name], rtol=1e-5, atol=1e-5, err_msg=str(name))
    untouched = mcr.profile(model, prompts, progress=False).data
    assert not np.allclose(untouched.norm_ratio, whole.norm_ratio)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mcr.ablate_mlp_write([]), r"layers \[\]: use one or several"),
        (lambda: mcr.ablate_mlp_write([-1]), "whole numbers from 0"),
        (lambda: mcr.ablate_mlp_write(1.0), "layers 1.0: use one or several of whole numbers"),  # type: ignore[arg-type]
        (lambda: mcr.ablate_mlp_write(None), "layers None"),  # type: ignore[arg-type]
        (lambda: mcr.ablate_mlp_write(1, dose="1"), "dose '1': use 0"),  # type: ignore[arg-type]
        (lambda: mcr.block_attention_to(0, 1, dose="1"), "dose '1': use 0"),  # type: ignore[arg-type]
        (lambda: mcr.ablate_mlp_write([True]), "whole numbers from 0"),
        (lambda: mcr.ablate_mlp_write([1, 1]), "each once"),
        (lambda: mcr.ablate_mlp_write([1], positions=0.5), r"positions 0\.5: use a whole number"),  # type: ignore[arg-type]
        (lambda: mcr.ablate_mlp_write([1], positions="last"), "positions 'last'"),  # type: ignore[arg-type]
        (lambda: mcr.block_attention_to([], [1]), r"positions \[\]"),
        (lambda: mcr.zero_dimensions([1], [3], positions=None), "positions None"),  # type: ignore[arg-type]
        (lambda: mcr.ablate_mlp_write([1], positions=[[0], [0.5]]), r"positions \[\[0\], \[0\.5\]\]"),  # type: ignore[list-item]
        (lambda: mcr.zero_dimensions([1], []), r"dimensions \[\]: use one or several"),
        (lambda: mcr.block_attention_to(0, [1], heads=[-1]), "whole numbers from 0"),
        (lambda: mcr.clamp_norm([3], rest_norm=[1.0, 1.0]), "one for every depth"),
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
        (mcr.ablate_mlp_write([1], positions=6), r"shortest prompt has 6 tokens, 0\.\.5"),
        (mcr.patch_activation("blocks.1.hook_nothing", torch.ones(1, 30, 32)), "no hook"),
    ]
    for hooks, message in lists:
        with pytest.raises(InputError, match=message):
            mcr.profile(model, ragged(), interventions=hooks, progress=False)
    with pytest.raises(InputError, match=r"layers are 0\.\.2"):
        mcr.ablate_mlp_write([3], model=model)
    with pytest.raises(InputError, match=r"position 8 in a prompt of 8 tokens: use 0\.\.7"):
        model.run_with_hooks(TOKENS, fwd_hooks=mcr.ablate_mlp_write([1], positions=8))
    with pytest.raises(InputError, match=r"dimension 32: the residual stream has 0\.\.31"):
        model.run_with_hooks(TOKENS, fwd_hooks=mcr.zero_dimensions([1], [32]))
    with pytest.raises(InputError, match="leave out chunk="):
        mcr.profile(model, ragged(), interventions=mcr.clamp_norm([1]), chunk=3, progress=False)


def test_lists_compose_in_their_order(model: Any) -> None:
    write, post = "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"
    before = activations(model, [], [write, post])
    half = mcr.ablate_mlp_write([1], dose=0.5)
    swap = mcr.patch_activation(write, torch.full((1, 8, 32), 3.0), positions=0)
    plus = [(write, lambda activation, hook: activation * 2 + 1)]
    kept = {
        "half, plus": (half + plus, before[write][:, 0] * 0.5 * 2 + 1),
        "plus, half": (plus + half, (before[write][:, 0] * 2 + 1) * 0.5),
        "swap, half": (swap + half, torch.full((1, 32), 1.5)),
        "half, swap": (half + swap, torch.full((1, 32), 3.0)),
        "half, half, plus, half": (half * 2 + plus + half, (before[write][:, 0] * 0.25 * 2 + 1) * 0.5),
    }
    for name, (hooks, expected) in kept.items():
        torch.testing.assert_close(activations(model, hooks, [write])[write][:, 0], expected, msg=name)
    # Norm and dimensions do not commute: by hand, in both orders.
    state = before[post][0]
    limit = 0.25 * state[1:].norm(dim=-1).mean()
    clamp, zero = mcr.clamp_norm([1], max_ratio=0.25), mcr.zero_dimensions([1], range(16))
    keep = torch.arange(32) >= 16
    by_hand = state[0] * limit / state[0].norm() * keep
    torch.testing.assert_close(activations(model, clamp + zero, [post])[post][0, 0], by_hand)
    zeroed = state[0] * keep
    by_hand = zeroed * limit / zeroed.norm()
    torch.testing.assert_close(activations(model, zero + clamp, [post])[post][0, 0], by_hand)


def test_what_was_done_is_recorded(model: Any) -> None:
    hooks = [*mcr.ablate_mlp_write([1], dose=0.5), ("blocks.0.hook_mlp_out", lambda write, hook: None)]
    made = mcr.profile(model, ragged(), interventions=hooks, progress=False).data.attrs["interventions"]
    assert made == ["ablate_mlp_write(layers=[1], positions=0, dose=0.5)", "blocks.0.hook_mlp_out"]


@pytest.mark.parametrize("family", [*FAMILIES, "bloom", *DELEGATED])
@pytest.mark.parametrize("dose", [0.5, 1.0])
def test_exactly_the_write_goes_on_every_family(load: Any, see: Any, family: str, dose: float) -> None:
    model, position = load(family), 2
    points = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post", "attn.hook_pattern")
    names = [f"blocks.{layer}.{point}" for layer in (0, 1) for point in points]
    before = see(model, [], names, TOKENS)
    after = see(model, mcr.ablate_mlp_write([1], position, dose), names, TOKENS)
    edited = names[7:9]
    assert all(torch.equal(after[name], before[name]) for name in names if name not in edited)
    pre, attention, write, post = (before[name] for name in names[5:9])
    expected = post.clone()
    expected[:, position] = (pre + attention + (1 - dose) * write)[:, position]
    others = [i for i in range(TOKENS.shape[1]) if i != position]
    torch.testing.assert_close(after[edited[1]], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(after[edited[1]][:, others], post[:, others])


@needs_hooked_transformer
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("chunk", [None, 5])
def test_both_backends_give_the_same_profile(load: Any, family: str, chunk: int | None) -> None:
    prompts = ragged()
    generator = torch.Generator().manual_seed(0)
    state, z = (torch.randn(4, 20, *shape, generator=generator) for shape in [(32,), (4, 8)])
    lists = {
        "write": mcr.ablate_mlp_write([0, 2], -2, dose=0.75),
        "attention": mcr.ablate_attention_write([1], [[3], [1], [2], [5]]),
        "norm": mcr.clamp_norm([0, 1], 0, rest_norm=[1.0, 2.0, 3.0, 4.0], dose=0.5),
        "dimensions": mcr.zero_dimensions([1], [3, 7], 4),
        "block": mcr.block_attention_to(0, [1, 2], heads=[0, 3]),
        "block, not renormalised": mcr.block_attention_to(2, [0, 1], renormalise=False, dose=0.5),
        "state": mcr.patch_activation("blocks.1.hook_resid_pre", state, positions=[0, -1]),
        "heads": mcr.patch_activation("blocks.1.attn.hook_z", z, heads=[1, 2]),
        "values": mcr.patch_activation("blocks.1.attn.hook_v", z[:, :, :2], positions=0, heads=1),
    }
    lists["all"] = [hook for hooks in lists.values() for hook in hooks]
    models = [load(family, backend) for backend in ("bridge", "hooked_transformer")]
    plain = mcr.profile(models[0], prompts, progress=False).data
    for kind, hooks in lists.items():
        one, other = (
            mcr.profile(model, prompts, interventions=hooks, chunk=chunk, progress=False).data
            for model in models
        )
        for name in one.data_vars:
            np.testing.assert_allclose(
                one[name], other[name], rtol=1e-4, atol=1e-4, err_msg=f"{kind}: {name}"
            )
        assert not np.allclose(one.matrix_entropy, plain.matrix_entropy, atol=1e-4), kind
