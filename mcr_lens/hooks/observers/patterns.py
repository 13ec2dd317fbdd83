"""Patterns to look at: those of some layers, cut to what can be drawn, with the heads' scores."""

from collections.abc import Mapping, Sequence

import torch
import xarray as xr
from torch import Tensor

from mcr_lens.hooks.observers.attention import PatternReader
from mcr_lens.hooks.observers.rows import Rows
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
        dims = {"column_mean": ("head", "key"), "pattern": ("head", "query", "key")}
        super().__init__(model, sink_position, blocks, dims)
        self._max_tokens = max_tokens
        self._patterns: dict[int, Tensor] | None = {} if patterns else None

    def result(self) -> xr.Dataset:
        """The variables above, at the layers that were looked at."""
        data = super().result()
        dims = [dim for dim in ("head", "query", "key") if dim in data.dims]
        return data.assign_coords({dim: range(data.sizes[dim]) for dim in dims})

    def _fold(self, state: AttentionState | None, block: Tensor, rows: Rows, place: int) -> AttentionState:
        if self._patterns is not None:
            batch, heads, queries, keys = block.shape
            if state is None:
                size = min(self._max_tokens, int(rows.host_lengths.max()))
                self._patterns[place] = torch.zeros(batch, heads, size, size, device=block.device)
            size, offset = self._patterns[place].shape[-1], rows.context.offset
            first_key = offset + queries - keys
            part = block[:, :, : max(0, size - offset), : max(0, size - first_key)].float()
            last_query, last_key = offset + part.shape[2], first_key + part.shape[3]
            self._patterns[place][:, :, offset:last_query, first_key:last_key] = part
        return super()._fold(state, block, rows, place)

    def _values(self, state: AttentionState, rows: Rows, place: int) -> Mapping[str, Tensor]:
        values = {name: value for name, value in state.result().items() if name != "visible_queries"}
        values["role"] = head_roles(
            values["sink_score"],
            values["identity_score"],
            values["previous_token_score"],
            values["mixing_score"],
        )
        columns = state.column_means()[..., : self._max_tokens]
        real = torch.arange(columns.shape[-1], device=columns.device) < rows.lengths[:, None, None]
        values["column_mean"] = columns.where(real, torch.nan)
        if self._patterns is not None:
            both = real[..., None] & real[..., None, :]
            values["pattern"] = self._patterns.pop(place).where(both, torch.nan)
        return values
