"""Patterns to look at: those of chosen layers, cut to what can be drawn, with the heads' scores."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import current_context
from mcr_lens.hooks.prompt_table import PromptTable
from mcr_lens.metrics.attention_state import AttentionState
from mcr_lens.metrics.roles import head_roles
from mcr_lens.models import Hook, Model, model_facts, require
from mcr_lens.validate import check_count, is_whole

__all__ = ["PatternObserver"]

_TRAILING = {"column_mean": ("head", "key"), "pattern": ("head", "query", "key")}


class PatternObserver:
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
        >>> look = PatternObserver(model, [2], max_tokens=5)
        >>> _ = model.run_with_hooks(model.to_tokens("Natalia sold clips"), fwd_hooks=look.hooks())
        >>> look.result().pattern.sizes["query"], float(look.result().pattern[0, 0, 0, 0, 0])
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
        require(model, "pattern_rows", "reading attention patterns")
        self._facts = model_facts(model)
        for layer in layers:
            if not is_whole(layer, 0, self._facts.n_layers):
                raise InputError(f"layer {layer!r}: {self._facts.name} has 0..{self._facts.n_layers - 1}")
        check_count("max_tokens", max_tokens)
        self._layers = tuple(dict.fromkeys(int(layer) for layer in layers))
        if not self._layers:
            raise InputError("no layer to look at: name at least one")
        self._sink_position = sink_position
        self._max_tokens = max_tokens
        self._with_patterns = patterns
        self._clear()

    def hooks(self) -> list[Hook]:
        """One hook a layer that is looked at; what was read before is forgotten."""
        self._clear()
        points = [(layer, f"blocks.{layer}.attn.hook_pattern") for layer in self._layers]
        return [(name, partial(self._read, layer=layer)) for layer, name in points]

    def result(self) -> xr.Dataset:
        """The variables above, at the layers that were looked at."""
        data = xr.merge([table.dataset() for table in self._tables.values()], join="outer")
        numbered = {dim: range(data.sizes[dim]) for dim in ("head", "query", "key") if dim in data.dims}
        return data.assign_coords(numbered | {"layer": list(self._layers)})

    def _clear(self) -> None:
        # Trailing dimensions differ, and a table gives all its variables the same. A table has room for the
        # layers that are looked at alone: patterns are large.
        self._tables = {
            name: PromptTable("layer", len(self._layers), trailing=_TRAILING.get(name, ("head",)))
            for name in ("scores", "column_mean", "pattern")
        }
        self._states: dict[int, AttentionState] = {}
        self._kept: dict[int, Tensor] = {}

    def _read(self, pattern: Float[Tensor, "batch head query key"], hook: Any, layer: int) -> None:
        context = current_context()
        batch, _, queries, keys = pattern.shape
        lengths = context.prompt_lengths(batch, queries)
        first_key = context.offset + queries - keys
        if context.offset == 0:
            self._states[layer] = AttentionState(lengths, self._sink_position, self._facts.windows[layer])
        self._states[layer].update(pattern, context.offset, first_key)
        if self._with_patterns:
            self._keep(pattern, context.offset, first_key, layer, int(lengths.max()))
        if context.ends_with(queries):
            self._finish(layer, lengths, context.prompts)

    def _keep(self, pattern: Tensor, offset: int, first_key: int, layer: int, longest: int) -> None:
        """Copy the part of a block of query rows that will be drawn."""
        batch, heads, queries, keys = pattern.shape
        size = min(self._max_tokens, longest)
        if offset == 0:
            self._kept[layer] = torch.zeros(batch, heads, size, size, device=pattern.device)
        last_query, last_key = min(offset + queries, size), min(first_key + keys, size)
        if offset < last_query and first_key < last_key:
            block = pattern.detach()[:, :, : last_query - offset, : last_key - first_key]
            self._kept[layer][:, :, offset:last_query, first_key:last_key] = block.float()

    def _finish(self, layer: int, lengths: Tensor, prompts: Sequence[int] | None) -> None:
        """The batch is over: scores, column means and patterns of this layer, padding as NaN."""
        state, place = self._states.pop(layer), self._layers.index(layer)
        scores = {name: value for name, value in state.result().items() if name != "visible_queries"}
        scores["role"] = head_roles(
            scores["sink_score"],
            scores["identity_score"],
            scores["previous_token_score"],
            scores["mixing_score"],
        )
        self._tables["scores"].add(place, scores, prompts)
        columns = state.column_means()[..., : self._max_tokens]
        real = torch.arange(columns.shape[-1])[None] < lengths.cpu()[:, None]
        real = real.to(columns.device)
        columns = columns.where(real[:, None], torch.nan)
        self._tables["column_mean"].add(place, {"column_mean": columns}, prompts)
        if self._with_patterns:
            both = real[:, None, :, None] & real[:, None, None, :]
            kept = self._kept.pop(layer).where(both, torch.nan)
            self._tables["pattern"].add(place, {"pattern": kept}, prompts)
