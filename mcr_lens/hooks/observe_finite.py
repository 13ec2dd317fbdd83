"""The observer that only looks for Inf and NaN: for passes in which no other one does."""

from __future__ import annotations

from functools import partial
from typing import Any

import xarray as xr
from torch import Tensor

from mcr_lens.hooks.context import current_context
from mcr_lens.hooks.finite import first_lost_row, first_not_finite
from mcr_lens.hooks.observe import depth_hook_name
from mcr_lens.hooks.prompt_table import PromptTable
from mcr_lens.models import Hook, Model, model_facts
from mcr_lens.models.backend import backend_of
from mcr_lens.not_finite import NOT_FINITE, with_first_broken

__all__ = ["FiniteObserver"]


class FiniteObserver:
    """Where the residual stream of each prompt first holds Inf or NaN.

    The engine adds one wherever there is no ``ResidualObserver``, so that a lens, pooled states and
    observers of others name what is broken, too.

    Args:
        patterns: also see where attention was lost on the way to a state that is finite and wrong, which a
            HookedTransformer does; not where an edit may have emptied a head on purpose.
    """

    def __init__(self, model: Model, patterns: bool = True) -> None:
        facts = model_facts(model)
        self._n_layers, self._dtype = facts.n_layers, facts.dtype
        self._patterns = patterns and backend_of(model) == "hooked_transformer" and not facts.learned_sink
        self._clear()

    def hooks(self) -> list[Hook]:
        """One hook a depth, and one a pattern; what was read before is forgotten."""
        self._clear()
        hooks: list[Hook] = []
        for depth in range(self._n_layers + 1):
            hooks.append((depth_hook_name(depth, self._n_layers), partial(self._read, depth=depth)))
            if self._patterns and depth < self._n_layers:
                name = f"blocks.{depth}.attn.hook_pattern"
                hooks.append((name, partial(self._read_pattern, depth=depth + 1)))
        return hooks

    def result(self) -> xr.Dataset:
        """No variable, but ``not_finite_depth`` and ``not_finite_position`` of every prompt (-1: nowhere)."""
        data = self._table.dataset()
        # Without the depths: another observer may have read only some of them.
        return with_first_broken(data, self._dtype).drop_vars("depth") if NOT_FINITE in data else data

    def _clear(self) -> None:
        self._table = PromptTable("depth", self._n_layers + 1)
        self._first: dict[int, Tensor] = {}

    def _read(self, residual: Tensor, hook: Any, depth: int) -> None:
        context = current_context()
        batch, rows, _ = residual.shape
        lengths = context.prompt_lengths(batch, rows)
        self._keep(depth, first_not_finite(residual, lengths, context.offset))
        if context.ends_with(rows):
            self._table.add(depth, {NOT_FINITE: self._first.pop(depth)}, context.prompts)

    def _read_pattern(self, pattern: Tensor, hook: Any, depth: int) -> None:
        context = current_context()
        batch, _, queries, _ = pattern.shape
        lengths = context.prompt_lengths(batch, queries)
        self._keep(depth, first_lost_row(pattern, lengths, context.offset))

    def _keep(self, depth: int, first: Tensor) -> None:
        """The first of what was seen on the way to a depth: earlier blocks come before later ones."""
        before = self._first.get(depth)
        self._first[depth] = first if before is None else before.where(before >= 0, first.to(before.device))
