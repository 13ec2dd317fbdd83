"""Inf and NaN: where each prompt's states stop to be finite, seen by one observer in every pass."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from mcr_lens.hooks.observers.base import BlockObserver, PromptTable, depth_points
from mcr_lens.hooks.observers.rows import Rows
from mcr_lens.models import Hook, Model, model_facts

__all__ = ["NonFinite", "broken_prompts", "visible_nan", "without"]


class NonFinite(BlockObserver[Bool[Tensor, "batch"]]):
    """The first depth at which each prompt's residual stream holds Inf or NaN; the engine always adds one.

    A ``HookedTransformer``, and a bridge in compatibility mode, turns a row of attention that is NaN into
    zeros, and goes on with a state that is finite and wrong. Around the interventions such rows become NaN
    again (``visible_nan``): then they show in the pattern of their head, in the state that the layer leaves
    behind and in the logits, as they do everywhere else.
    """

    def __init__(self, model: Model) -> None:
        points = depth_points(model_facts(model).n_layers)
        super().__init__(points, PromptTable("depth", points))
        self._model = model

    def around(self, interventions: Sequence[Hook] = ()) -> list[Hook]:
        """The interventions, with what makes NaN visible before them and what looks for it behind."""
        return [*visible_nan(self._model, interventions), *self.hooks()]

    def result(self) -> xr.Dataset:
        """No variable; the coordinate ``not_finite_depth`` of every prompt, -1 where all is finite."""
        data = super().result()
        if "broken" not in data:
            return data.drop_vars("depth")
        broken = data.broken == 1
        first = broken.argmax("depth").where(broken.any("depth"), -1)
        return xr.Dataset(coords={"prompt": data.prompt, "not_finite_depth": first})

    def _fold(self, state: Tensor | None, block: Tensor, rows: Rows, place: int) -> Tensor:
        broken = broken_prompts(block, rows)
        return broken if state is None else broken | state.to(broken.device)

    def _values(self, state: Tensor, rows: Rows, place: int) -> Mapping[str, Tensor]:
        return {"broken": state.long()}


def broken_prompts(block: Tensor, rows: Rows) -> Bool[Tensor, "batch"]:
    """Which prompts have an Inf or a NaN in a row of the block ``(batch, rows, ...)`` that is no padding."""
    # A sum is finite only where every number is. On an accelerator asking would wait for it.
    if block.device.type == "cpu" and bool(block.sum(dtype=torch.float32).isfinite()):
        return torch.zeros(len(block), dtype=torch.bool)
    # The largest of a row is NaN where one is, and ten times faster to find than to ask each number.
    return (~block.flatten(2).abs().amax(-1).isfinite() & rows.real).any(-1)


def without(broken: Bool[Tensor, "batch"], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values of each prompt, with NaN (-1 for integers) for the broken ones."""
    masked = {}
    for name, tensor in values.items():
        missing = torch.nan if tensor.is_floating_point() else -1
        at = broken.to(tensor.device).reshape(-1, *[1] * (tensor.ndim - 1))
        masked[name] = torch.where(at, missing, tensor)
    return masked


def visible_nan(model: Model, interventions: Sequence[Hook] = ()) -> list[Hook]:
    """The interventions, and around them hooks that make rows of attention NaN where the model hides it.

    A row of scores that holds NaN or +Inf is no distribution, whoever wrote it there. One of -Inf alone is
    none either, unless an edit did that: it knocks the keys out on purpose. With a learned sink such a row
    is a distribution, all of it the sink's.
    """
    facts = model_facts(model)
    hides = facts.backend == "hooked_transformer" or facts.processing == "compatibility mode"
    # Where an edit of the pattern has no effect, the pattern is a copy for show, and hides nothing.
    if not hides or "pattern_edits" in facts.failed_checks:
        return list(interventions)
    before: list[Hook] = []
    behind: list[Hook] = []
    for layer in range(facts.n_layers):
        name = f"blocks.{layer}.attn.hook_attn_scores"
        if name not in model.hook_dict:  # a layer without attention
            continue
        row = _AttentionRows()
        # Hooks that the user has left on the model run before ours.
        knocked_out = facts.learned_sink or bool(model.hook_dict[name].fwd_hooks)
        before += [
            (name, partial(row.look, all_masked=not knocked_out)),
            (f"blocks.{layer}.attn.hook_pattern", row.show),
        ]
        behind.append((name, row.look))
    edits_scores = any(not isinstance(name, str) or "attn_scores" in name for name, _ in interventions)
    return [*before, *interventions, *(behind if edits_scores else [])]


class _AttentionRows:
    """The rows of one layer that are no distribution, from the scores to the pattern."""

    def __init__(self) -> None:
        self._lost: Bool[Tensor, "batch head query"] | None = None

    def look(self, scores: Tensor, hook: Any, all_masked: bool = False) -> None:
        """A hook that finds them among the scores; with ``all_masked`` rows of -Inf alone, too."""
        largest = scores.detach().amax(-1)
        lost = largest.isnan() | (largest == torch.inf)
        if all_masked:
            lost |= largest == -torch.inf
        self._lost = lost if self._lost is None else lost | self._lost

    def show(self, pattern: Tensor, hook: Any) -> Tensor | None:
        """A hook that gives these rows of the pattern as NaN, which is what their softmax was."""
        lost, self._lost = self._lost, None
        # On an accelerator asking would wait for it, and the model itself has just copied the pattern.
        if lost is None or (lost.device.type == "cpu" and not bool(lost.any())):
            return None
        return pattern.masked_fill(lost[..., None], torch.nan)
