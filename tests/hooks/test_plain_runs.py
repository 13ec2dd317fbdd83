"""Plain runs outside the engine: what is refused, what a failure leaves, hooks called by two names."""

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from backends import BACKENDS, needs_hooked_transformer
from transformer_lens.hook_points import HookPoint

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.hooks import BatchContext, running
from mcr_lens.models.backend import as_module

TOKENS = torch.tensor([[1, 7, 9, 23, 5, 40, 11, 8]])
PROMPTS = mcr.Prompts.from_tokens([[1, *range(3, 15)], [1, 9, 8, 7]])
LAYERS = range(3)
GENERATE: dict[str, Any] = {
    "do_sample": False,
    "verbose": False,
    "stop_at_eos": False,
    "return_type": "tokens",
}


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, load: Callable[..., Any]) -> Any:
    return load("llama", request.param)


def generated(model: Any, hooks: list[Any], cached: bool = True) -> list[int]:
    with mcr.generating(model), model.hooks(fwd_hooks=hooks):
        return model.generate(TOKENS, max_new_tokens=10, use_past_kv_cache=cached, **GENERATE)[0].tolist()


def state_of(model: Any) -> tuple[Any, ...]:
    """What a call must leave: weights, modes, hooks, gradients."""
    module, digest = as_module(model), hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    hooks = {
        name: len(point._forward_hooks) for name, point in model.hook_dict.items() if point._forward_hooks
    }
    modes = tuple(part.training for part in module.modules())
    wants = tuple(parameter.requires_grad for parameter in module.parameters())
    return digest.hexdigest(), modes, hooks, wants, torch.is_grad_enabled()


class Broken(Exception):
    """Raised by a hook of the test."""


def fails_on_call(number: int) -> Callable[..., None]:
    calls = []

    def hook_function(tensor: torch.Tensor, hook: Any) -> None:
        calls.append(1)
        if len(calls) == number:
            raise Broken

    return hook_function


def every_kind() -> list[Any]:
    return [
        *mcr.patch_activation("blocks.0.hook_resid_pre", torch.ones(1, 20, 32), 1),
        *mcr.ablate_mlp_write(LAYERS, 0, dose=0.5),
        *mcr.ablate_attention_write([0], 2),
        *mcr.block_attention_to(0, [0, 1]),
        *mcr.clamp_norm([2], 3, rest_norm=[1.0] * 4),
    ]


def test_a_failure_leaves_nothing_and_the_list_works_again(model: Any) -> None:
    hooks, before = every_kind(), state_of(model)
    fresh = generated(model, every_kind())
    at = [
        ("blocks.0.hook_resid_pre", 1),
        ("blocks.0.attn.hook_pattern", 2),
        ("blocks.0.hook_mlp_out", 3),
        ("blocks.2.hook_resid_post", 2),
    ]
    ways: list[Callable[[list[Any]], Any]] = [
        lambda made: generated(model, made),
        lambda made: generated(model, made, cached=False),
        lambda made: mcr.profile(model, PROMPTS, interventions=made, batch_size=1, chunk=2, progress=False),
    ]
    for name, number in at:
        for way in ways:
            with pytest.raises(Broken):
                way([*hooks, (name, fails_on_call(number))])
            assert state_of(model) == before
            with pytest.raises(Broken):
                model.run_with_hooks(TOKENS, fwd_hooks=[*hooks, (name, fails_on_call(1))])
            assert state_of(model) == before
            assert generated(model, hooks) == fresh
            assert state_of(model) == before


def test_the_mode_outlasts_a_failure(model: Any) -> None:
    as_module(model).train()
    try:
        before = state_of(model)
        with pytest.raises(Broken):
            mcr.profile(model, PROMPTS, interventions=[("blocks.1.hook_mlp_out", fails_on_call(1))])
        assert state_of(model) == before
        mcr.profile(model, PROMPTS, interventions=every_kind(), chunk=2, progress=False)
        assert state_of(model) == before
    finally:
        as_module(model).eval()


def test_hooks_of_the_user_stay(model: Any) -> None:
    seen: list[int] = []
    model.add_hook("blocks.1.hook_resid_post", lambda state, hook: seen.append(1), is_permanent=True)
    try:
        mcr.profile(
            model, mcr.Prompts.from_tokens([[1, 2, 3]]), interventions=every_kind()[2:5], progress=False
        )
        with pytest.raises(InputError):
            model.run_with_hooks(TOKENS, fwd_hooks=mcr.ablate_mlp_write([1], 50))
        count = len(seen)
        model(TOKENS)
        assert len(seen) == count + 1
    finally:
        model.reset_hooks(including_permanent=True)


def test_a_wrong_layer_is_refused_where_the_model_is_given(model: Any) -> None:
    for make in (
        lambda: mcr.ablate_mlp_write([3], model=model),
        lambda: mcr.patch_activation("blocks.3.hook_mlp_out", torch.ones(1, 8, 32), model=model),
        lambda: mcr.intervention("hook_mlp_out", torch.relu, layers=[3], model=model),
    ):
        with pytest.raises(InputError, match=r"no hook 'blocks\.3\.hook_mlp_out'; its layers are 0\.\.2"):
            make()


def test_heads_in_a_plain_run(model: Any) -> None:
    with pytest.raises(InputError, match=r"heads \[4\].*heads 0\.\.3"):
        mcr.block_attention_to(0, [1], heads=[4], model=model)
    with pytest.raises(InputError, match=r"head 4: .*heads 0\.\.3"):
        model.run_with_hooks(TOKENS, fwd_hooks=mcr.block_attention_to(0, [1], heads=[4]))
    with pytest.raises(InputError, match=r"head 4: .*heads 0\.\.3"):
        mcr.patch_activation("blocks.1.attn.hook_z", torch.ones(1, 8, 4, 8), heads=[4])


def test_the_newest_token_is_position_minus_one(model: Any) -> None:
    seen: list[tuple[int, bool]] = []

    def see(write: torch.Tensor, hook: Any) -> None:
        seen.append((write.shape[1], bool((write[:, -1] == 0).all())))

    generated(model, [*mcr.ablate_mlp_write([1], -1), ("blocks.1.hook_mlp_out", see)])
    assert seen[0] == (8, True)
    assert seen[1:] == [(1, True)] * 9


@needs_hooked_transformer
def test_a_run_that_starts_above_block_0(load: Any, see: Any) -> None:
    model, hooks = load("llama", "hooked_transformer"), mcr.ablate_mlp_write([2], 1)
    generated(model, hooks)
    state = see(model, [], ["blocks.2.hook_resid_pre"], TOKENS)["blocks.2.hook_resid_pre"]
    whole = model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    for _ in range(2):
        above = model.run_with_hooks(state, fwd_hooks=hooks, start_at_layer=2)
        torch.testing.assert_close(above, whole, rtol=1e-5, atol=1e-5)
    assert generated(model, hooks) == generated(model, mcr.ablate_mlp_write([2], 1), cached=False)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_in_compatibility_mode_a_dose_counts_once(family_folder: Any, see: Any, family: str) -> None:
    model = mcr.load_model(family_folder(family))
    model.enable_compatibility_mode()
    kinds = {
        "blocks.1.hook_mlp_out": mcr.ablate_mlp_write([1], dose=0.5, model=model),
        "blocks.1.hook_attn_out": mcr.ablate_attention_write([1], dose=0.5),
        "blocks.1.hook_resid_post": mcr.zero_dimensions([1], range(32), dose=0.5),
    }
    for name, hooks in kinds.items():
        before, after = (see(model, made, [name], TOKENS)[name] for made in ([], hooks))
        torch.testing.assert_close(after[:, 0], before[:, 0] * 0.5)
        assert torch.equal(after[:, 1:], before[:, 1:])
        seen: list[torch.Tensor] = []
        with model.hooks(fwd_hooks=[*hooks, (name, lambda tensor, hook, into=seen: into.append(tensor))]):
            model(TOKENS)
        assert torch.equal(seen[-1], after)


def test_a_hook_that_is_called_under_two_names_edits_once() -> None:
    point = HookPoint()
    point.name = "blocks.1.hook_out"
    name, edit = mcr.zero_dimensions([1], range(4), dose=0.5)[0]
    if "alias_names" not in inspect.signature(point.add_hook).parameters:
        pytest.skip("this TransformerLens calls a hook once")
    point.add_hook(edit, alias_names=[point.name, name])
    with running(BatchContext()):
        assert torch.equal(point(torch.ones(1, 3, 4))[0, :, 0], torch.tensor([0.5, 1.0, 1.0]))
