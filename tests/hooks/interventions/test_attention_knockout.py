"""Blocked attention against NumPy, and the architectures that would discard it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS
from families import DELEGATED

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


def test_several_positions_are_blocked_at_once(model: Any, see: Any) -> None:
    before = see(model, [], [PATTERN], TOKENS)[PATTERN]
    after = see(model, mcr.block_attention_to([0, 4], [1], renormalise=False), [PATTERN], TOKENS)[PATTERN]
    expected = before.clone()
    expected[:, :, 1:, 0] = 0
    expected[:, :, 5:, 4] = 0
    assert torch.equal(after, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_blocking_on_other_families(load: Callable[..., Any], see: Any, family: str) -> None:
    model = load(family)
    before = see(model, [], [PATTERN], TOKENS)[PATTERN][0].double().numpy()
    after = see(model, mcr.block_attention_to(1, [1]), [PATTERN], TOKENS)[PATTERN][0]
    np.testing.assert_allclose(after, blocked(before, 1, [0, 1, 2, 3], True, 1.0), atol=1e-6)


def test_a_row_that_has_nothing_left_stays_empty(model: Any, see: Any) -> None:
    everything = mcr.block_attention_to(range(2), [1])
    only_first = [(PATTERN, lambda pattern, hook: torch.cat([pattern[..., :2], pattern[..., 2:] * 0], -1))]
    after = see(model, only_first + everything, [PATTERN], TOKENS)[PATTERN]
    assert (after[:, :, 2:] == 0).all()
    assert after.isfinite().all()


def of_patterns() -> dict[str, Callable[..., list[Any]]]:
    source = Activations({PATTERN: torch.rand(1, 4, 12, 12)}, torch.tensor([12]))
    scores = "blocks.1.attn.hook_attn_scores"
    return {
        "block_attention_to": lambda **options: mcr.block_attention_to(0, [1], **options),
        "intervention": lambda **options: mcr.intervention(PATTERN, lambda rows: rows * 0, **options),
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

    ways: list[Callable[[], Any]] = [
        lambda: make(model=model),
        lambda: mcr.profile(model, prompts, interventions=make(), progress=False),
        lambda: mcr.profile(model, prompts, interventions=make(), chunk=5, progress=False),
        lambda: model.run_with_hooks(TOKENS, fwd_hooks=make()),
    ]
    for way in ways:
        with pytest.raises(
            InputError, match=f"{kind.split()[0]} has no effect on .* discarded by this"
        ) as caught:
            way()
        assert "\n" not in str(caught.value)
    # Other edits of the same attention do have an effect.
    model.run_with_hooks(TOKENS, fwd_hooks=mcr.ablate_attention_write([1], model=model))
