"""Blocked attention against NumPy, and the architectures that would discard it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS
from families import DELEGATED
from transformer_lens.model_bridge import TransformerBridge

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.hooks import Activations

TOKENS = torch.tensor([[1, 7, 9, 23, 5, 40, 11, 8, 30, 21, 4, 17]])
PATTERN = "blocks.1.attn.hook_pattern"
FAMILIES = ["llama", "gpt2", "gpt_neox", "mistral", "gemma2", "bloom"]


def blocked(
    before: np.ndarray, position: int, heads: list[int], renormalise: bool, dose: float
) -> np.ndarray:
    """By hand, row by row."""
    after = before.copy()
    for head in heads:
        for query in range(position + 1, before.shape[1]):
            mass = after[head, query].sum()
            after[head, query, position] *= 1 - dose
            if renormalise and after[head, query].sum() > 0:
                after[head, query] *= mass / after[head, query].sum()
    return after


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, load: Callable[..., Any]) -> Any:
    return load("llama", request.param)


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize(("position", "heads"), [(0, None), (2, [0, 3]), (-2, 1)])
@pytest.mark.parametrize("dose", [0.3, 1.0])
def test_blocked_attention_is_what_numpy_gives(
    model: Any, see: Any, position: int, heads: Any, renormalise: bool, dose: float
) -> None:
    names = [PATTERN, "blocks.1.attn.hook_v", "blocks.1.attn.hook_z"]
    before = see(model, [], names, TOKENS)
    hooks = mcr.block_attention_to(position, [1], heads, renormalise, dose)
    after = see(model, hooks, names, TOKENS)
    chosen = list(range(4)) if heads is None else [heads] if isinstance(heads, int) else heads
    expected = blocked(before[PATTERN][0].double().numpy(), position % 12, chosen, renormalise, dose)
    np.testing.assert_allclose(after[PATTERN][0], expected, atol=1e-6)
    # It is what the heads read: z is the edited pattern times the values of the head's group.
    values = before[names[1]][0].repeat_interleave(2, dim=1).double().numpy()
    z = np.einsum("hqk,khd->qhd", expected, values)
    np.testing.assert_allclose(after[names[2]][0], z, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_blocking_on_other_families(load: Callable[..., Any], see: Any, family: str) -> None:
    model = load(family)
    before = see(model, [], [PATTERN], TOKENS)[PATTERN][0].double().numpy()
    after = see(model, mcr.block_attention_to(1, [1]), [PATTERN], TOKENS)[PATTERN][0]
    np.testing.assert_allclose(after, blocked(before, 1, [0, 1, 2, 3], True, 1.0), atol=1e-6)


def test_a_row_that_has_nothing_left_stays_empty(model: Any, see: Any) -> None:
    everything = [hook for position in range(2) for hook in mcr.block_attention_to(position, [1])]
    only_first = [(PATTERN, lambda pattern, hook: torch.cat([pattern[..., :2], pattern[..., 2:] * 0], -1))]
    after = see(model, only_first + everything, [PATTERN], TOKENS)[PATTERN]
    assert (after[:, :, 2:] == 0).all()
    assert after.isfinite().all()


def of_patterns() -> dict[str, Callable[..., list[Any]]]:
    source = Activations({PATTERN: torch.rand(1, 4, 12, 12)}, torch.tensor([12]))
    scores = "blocks.1.attn.hook_attn_scores"
    return {
        "block_attention_to": lambda **options: mcr.block_attention_to(0, [1], **options),
        "patch_activation": lambda **options: mcr.patch_activation(PATTERN, source, **options),
        "patch_activation of scores": lambda **options: mcr.patch_activation(
            scores, torch.rand(1, 4, 12, 12), **options
        ),
        "mean_ablate": lambda **options: mcr.hooks.mean_ablate(PATTERN, source, **options),
        "resample_ablate": lambda **options: mcr.hooks.resample_ablate(PATTERN, source, **options),
    }


@pytest.mark.parametrize("family", DELEGATED)
@pytest.mark.parametrize("kind", of_patterns())
def test_a_pattern_edit_that_would_be_discarded_is_refused(
    load: Callable[..., Any], family: str, kind: str
) -> None:
    model, make = load(family), of_patterns()[kind]
    prompts = mcr.Prompts.from_tokens(TOKENS)

    def generate() -> None:
        with model.hooks(fwd_hooks=make()):
            model.generate(TOKENS, max_new_tokens=2, verbose=False)

    ways: list[Callable[[], Any]] = [
        lambda: make(model=model),
        lambda: mcr.profile(model, prompts, interventions=make(), progress=False),
        lambda: mcr.profile(model, prompts, interventions=make(), chunk=5, progress=False),
        lambda: model.run_with_hooks(TOKENS, fwd_hooks=make()),
        generate,
    ]
    for way in ways:
        with pytest.raises(
            InputError, match=f"{kind.split()[0]} has no effect on .* discarded by this"
        ) as caught:
            way()
        assert "\n" not in str(caught.value)
    # Other edits of the same attention do have an effect.
    model.run_with_hooks(TOKENS, fwd_hooks=mcr.ablate_attention_write([1], model=model))


@pytest.mark.parametrize("family", ["llama", *DELEGATED])
def test_a_bridge_that_was_never_checked(family_folder: Callable[..., Any], family: str) -> None:
    bridge = TransformerBridge.boot_transformers(str(family_folder(family)))
    hooks = of_patterns()["block_attention_to"]()
    for _ in range(2):
        if family in DELEGATED:
            with pytest.raises(InputError, match="has no effect on this model"):
                bridge.run_with_hooks(TOKENS, fwd_hooks=hooks)
        else:
            assert not torch.equal(bridge.run_with_hooks(TOKENS, fwd_hooks=hooks), bridge(TOKENS))


def test_a_refusal_on_one_model_leaves_the_list_good_for_another(
    family_folder: Callable[..., Any], load: Callable[..., Any]
) -> None:
    hooks = mcr.block_attention_to(0, [0, 1]) * 2
    unknown: Any = TransformerBridge.boot_transformers(str(family_folder("gptj")))
    prompts = mcr.Prompts.from_tokens(TOKENS)
    expected = load("llama").run_with_hooks(TOKENS, fwd_hooks=hooks)
    for _ in range(2):
        with pytest.raises(InputError, match="has no effect"):
            unknown.run_with_hooks(TOKENS, fwd_hooks=hooks)
        mcr.profile(load("llama"), prompts, interventions=hooks, progress=False)
        assert torch.equal(load("llama").run_with_hooks(TOKENS, fwd_hooks=hooks), expected)
