"""Patterns to look at: those of some layers, cut to what can be drawn, with the heads' scores."""

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from mcr_lens.hooks.context import BatchContext, current_context
from mcr_lens.hooks.observers.attention import PatternReader
from mcr_lens.hooks.observers.base import PromptTable
from mcr_lens.metrics.attention_state import AttentionState
from mcr_lens.metrics.roles import head_roles
from mcr_lens.models import Model, model_facts
from mcr_lens.validate import check_count, check_indices

__all__ = ["PatternObserver"]


class PatternObserver(PatternReader):
    """The patterns of a few layers, to be drawn. Every other layer goes by untouched.

    Per (prompt, layer, head): every score of ``AttentionState``, over the whole prompt, and ``role``, an
    index into ``metrics.roles.ROLES``. Per (prompt, layer, head, key): ``column_mean``, the
    ``C_k = (1/T) sum_q A_qk`` of the whole prompt. With ``patterns``, per (prompt, layer, head, query,
    key): ``pattern``. Of queries and keys the first ``max_tokens`` are kept; shorter prompts are padded
    with NaN.

    Args:
        model: from ``load_model``.
        layers: the blocks that are looked at.
        sink_position: the column that is watched.
        max_tokens: how many queries and keys are kept.
        patterns: keep the patterns themselves too.

    Raises:
        InputError: for a layer the model does not have, or where its patterns cannot be read.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> observer = PatternObserver(model, [2], max_tokens=5)
        >>> _ = model.run_with_hooks(model.to_tokens("Natalia sold clips"), fwd_hooks=observer.hooks())
        >>> pattern = observer.result().pattern
        >>> pattern.sizes["query"], float(pattern[0, 0, 0, 0, 0])
        (5, 1.0)
    """

    def __init__(
        self,
        model: Model,
        layers: Sequence[int],
        *,
        sink_position: int = 0,
        max_tokens: int = 64,
        patterns: bool = True,
    ) -> None:
        blocks = check_indices("layers", layers, model_facts(model).n_layers)
        check_count("max_tokens", max_tokens)
        self._max_tokens = max_tokens
        self._patterns: dict[int, Tensor] | None = {} if patterns else None
        # A table has room for the layers that are looked at alone: patterns are large.
        others = {"column_mean": ("head", "key"), "pattern": ("head", "query", "key")}
        table = PromptTable("layer", blocks, ("head",), others)
        super().__init__(model, sink_position, table)

    def result(self) -> xr.Dataset:
        """The variables above, at the layers that were looked at."""
        data = super().result()
        dims = [dim for dim in ("head", "query", "key") if dim in data.dims]
        return data.assign_coords({dim: range(data.sizes[dim]) for dim in dims})

    def _read(self, block: Tensor, hook: Any, place: int) -> None:
        if self._patterns is not None:
            self._crop(block.detach(), place, self._patterns)
        super()._read(block, hook, place)

    def _crop(self, block: Tensor, layer: int, patterns: dict[int, Tensor]) -> None:
        """Copy the part of a block of query rows that will be drawn."""
        context = current_context()
        batch, heads, queries, keys = block.shape
        offset, first_key = context.offset, context.offset + queries - keys
        if offset == 0:
            size = min(self._max_tokens, int(context.prompt_lengths(batch, queries).max()))
            patterns[layer] = torch.zeros(batch, heads, size, size, device=block.device)
        size = patterns[layer].shape[-1]
        last_query, last_key = min(offset + queries, size), min(first_key + keys, size)
        if offset < last_query and first_key < last_key:
            part = block[:, :, : last_query - offset, : last_key - first_key]
            patterns[layer][:, :, offset:last_query, first_key:last_key] = part.float()

    def _finish(self, place: int, state: AttentionState, context: BatchContext) -> None:
        values = {name: value for name, value in state.result().items() if name != "visible_queries"}
        values["role"] = head_roles(
            values["sink_score"],
            values["identity_score"],
            values["previous_token_score"],
            values["mixing_score"],
        )
        columns = state.column_means()[..., : self._max_tokens]
        real = torch.arange(columns.shape[-1]) < state.lengths[:, None]
        real = real.to(columns.device)[:, None]
        values["column_mean"] = columns.where(real, torch.nan)
        if self._patterns is not None:
            both = real[..., None] & real[..., None, :]
            values["pattern"] = self._patterns.pop(place).where(both, torch.nan)
        self._table.add(place, values, context.prompts)
