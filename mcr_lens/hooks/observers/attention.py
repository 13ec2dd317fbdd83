"""The observer of attention: every head's scores, and the positions of a layer that act as sinks."""

from collections.abc import Iterable, Mapping, Sequence

import einops
import torch
import xarray as xr
from torch import Tensor

from mcr_lens.hooks.observers.base import BlockObserver, PromptTable
from mcr_lens.hooks.observers.nonfinite import visible_nan
from mcr_lens.hooks.observers.rows import Rows
from mcr_lens.metrics.attention_state import AttentionState
from mcr_lens.metrics.rows import SinkPositions
from mcr_lens.metrics.value_state import ValueState
from mcr_lens.models import Hook, Model, ModelFacts, model_facts

__all__ = ["AttentionObserver", "PatternReader"]


class PatternReader(BlockObserver[AttentionState]):
    """What observers of patterns share: an ``AttentionState`` of each layer that is read."""

    def __init__(
        self,
        model: Model,
        sink_position: SinkPositions,
        layers: Iterable[int],
        dims: Mapping[str, Sequence[str]],
    ) -> None:
        self._facts = model_facts(model)
        self._facts.require("pattern_rows", "reading attention patterns")
        points = {layer: f"blocks.{layer}.attn.hook_pattern" for layer in layers}
        super().__init__(points, PromptTable("layer", points, ("head",), dims))
        self._sink_position = sink_position
        # Outside the engine nobody else makes the NaN visible that a model hides in its patterns.
        self._nan_hooks = visible_nan(model)

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was read before is forgotten."""
        super().begin(model)
        self._nan_hooks = []

    def hooks(self) -> list[Hook]:
        """A hook for the pattern of each layer."""
        return [*self._nan_hooks, *super().hooks()]

    def _fold(self, state: AttentionState | None, block: Tensor, rows: Rows, place: int) -> AttentionState:
        if state is None:
            state = AttentionState(rows.host_lengths, self._sink_position, self._facts.windows[place])
        offset, (queries, keys) = rows.context.offset, block.shape[-2:]
        state.update(block, offset, first_key=offset + queries - keys)
        return state


class AttentionObserver(PatternReader):
    """Sinks, mixing, identity and previous-token scores of every head. No pattern outlives its hook.

    Of every layer it also keeps the few positions that later queries attend to most, whichever they are,
    with the attention that each head pays them (``top_column_position``, ``top_column_attention``; see
    ``AttentionState.top_columns``) and the token that stands there (``top_column_token``). A head with NaN
    in a row of its pattern has no number.
    """

    def __init__(self, model: Model, sink_position: SinkPositions = 0) -> None:
        rank = {"top_column_position": ("rank",), "top_column_token": ("rank",)}
        dims = {"top_column_attention": ("rank", "head"), **rank}
        super().__init__(model, sink_position, range(model_facts(model).n_layers), dims)
        # Left out where the self-check found that they are not what attention adds up.
        sound = "value_rows" not in self._facts.failed_checks
        has_values = sound and "blocks.0.attn.hook_v" in model.hook_dict
        self._values_too = [_ValueReader(self._facts, sink_position)] if has_values else []

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was read before is forgotten."""
        super().begin(model)
        for values in self._values_too:
            values.begin(model)

    def hooks(self) -> list[Hook]:
        """Two hooks a layer: value vectors and pattern."""
        return super().hooks() + [hook for values in self._values_too for hook in values.hooks()]

    def result(self) -> xr.Dataset:
        """Every (prompt, layer, head) variable, and the top columns, (prompt, layer, rank[, head])."""
        data = xr.merge([super().result(), *(values.result() for values in self._values_too)], join="outer")
        data = data.assign_coords(head=range(self._facts.n_heads))
        return data.set_coords("top_column_token") if "top_column_token" in data else data

    def _values(self, state: AttentionState, rows: Rows, place: int) -> Mapping[str, Tensor]:
        position, attention = state.top_columns()
        token = torch.full_like(position, -1)
        if rows.tokens is not None:
            tokens = rows.tokens.to(position.device)
            token = tokens.gather(1, position.clamp(min=0)).where(position >= 0, -1)
        columns = {"top_column_position": position, "top_column_attention": attention.float()}
        return state.result() | columns | {"top_column_token": token}


class _ValueReader(BlockObserver[ValueState]):
    """``sink_value_ratio`` of every head."""

    def __init__(self, facts: ModelFacts, sink_position: SinkPositions) -> None:
        points = {layer: f"blocks.{layer}.attn.hook_v" for layer in range(facts.n_layers)}
        super().__init__(points, PromptTable("layer", points, ("head",)))
        self._n_heads, self._sink_position = facts.n_heads, sink_position

    def _fold(self, state: ValueState | None, block: Tensor, rows: Rows, place: int) -> ValueState:
        state = ValueState(rows.host_lengths, self._sink_position) if state is None else state
        # A norm of Inf would make the ratio 0: a prompt with such a value has none.
        state.update(block.where(block.isfinite(), torch.nan), rows.context.offset)
        return state

    def _values(self, state: ValueState, rows: Rows, place: int) -> Mapping[str, Tensor]:
        ratio = state.result()
        # Grouped-query attention: several query heads read one value head.
        group = self._n_heads // ratio.shape[1]
        return {"sink_value_ratio": einops.repeat(ratio, "b value_head -> b (value_head group)", group=group)}
