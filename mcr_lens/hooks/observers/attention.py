"""The observer of attention: every head's scores, and the positions of a layer that act as sinks."""

from functools import partial

import einops
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mcr_lens.hooks.context import BatchContext
from mcr_lens.hooks.observers.base import BlockObserver, PromptTable
from mcr_lens.hooks.observers.nonfinite import visible_nan
from mcr_lens.metrics.attention_state import AttentionState
from mcr_lens.metrics.value_state import ValueState
from mcr_lens.models import Hook, Model, ModelFacts, model_facts

__all__ = ["AttentionObserver", "PatternReader"]


class PatternReader(BlockObserver[AttentionState]):
    """What observers of patterns share: an ``AttentionState`` of each layer that is read."""

    _rows_axis = 2

    def __init__(self, model: Model, sink_position: int, table: PromptTable) -> None:
        self._facts = model_facts(model)
        self._facts.require("pattern_rows", "reading attention patterns")
        self._sink_position = sink_position
        # Outside the engine nobody else makes the NaN visible that a model hides in its patterns.
        self._nan_hooks = visible_nan(model)
        super().__init__(table)

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was read before is forgotten."""
        super().begin(model)
        self._nan_hooks = []

    def hooks(self) -> list[Hook]:
        """A hook for the pattern of each layer."""
        names = [(layer, f"blocks.{layer}.attn.hook_pattern") for layer in self._table.places]
        return [*self._nan_hooks, *((name, partial(self._read, place=layer)) for layer, name in names)]

    def _new_state(self, place: int, lengths: Int[Tensor, "batch"]) -> AttentionState:
        return AttentionState(lengths, self._sink_position, self._facts.windows[place])

    def _update(self, state: AttentionState, block: Tensor, offset: int) -> None:
        queries, keys = block.shape[-2:]
        state.update(block, offset, first_key=offset + queries - keys)


class AttentionObserver(PatternReader):
    """Sinks, mixing, identity and previous-token scores of every head. No pattern outlives its hook.

    Of every layer it also keeps the few positions that later queries attend to most, whichever they are,
    with the attention that each head pays them (``top_column_position``, ``top_column_attention``; see
    ``AttentionState.top_columns``) and the token that stands there (``top_column_token``). A head with NaN
    in a row of its pattern has no number.
    """

    def __init__(self, model: Model, sink_position: int = 0) -> None:
        columns = {"top_column_attention": ("rank", "head")}
        columns |= dict.fromkeys(("top_column_position", "top_column_token"), ("rank",))
        n_layers = model_facts(model).n_layers
        super().__init__(model, sink_position, PromptTable("layer", n_layers, ("head",), columns))
        # Left out where the self-check found that they are not what attention adds up.
        sound = "value_rows" not in self._facts.failed_checks
        has_values = sound and "blocks.0.attn.hook_v" in model.hook_dict
        self._values = _ValueReader(self._facts, sink_position) if has_values else None

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was read before is forgotten."""
        super().begin(model)
        if self._values is not None:
            self._values.begin(model)

    def hooks(self) -> list[Hook]:
        """Two hooks a layer: value vectors and pattern."""
        return super().hooks() + ([] if self._values is None else self._values.hooks())

    def result(self) -> xr.Dataset:
        """Every (prompt, layer, head) variable, and the top columns, (prompt, layer, rank[, head])."""
        data = super().result()
        if self._values is not None:
            data = data.merge(self._values.result())
        data = data.assign_coords(head=range(self._facts.n_heads))
        return data.set_coords("top_column_token") if "top_column_token" in data else data

    def _finish(self, place: int, state: AttentionState, context: BatchContext) -> None:
        position, attention = state.top_columns()
        columns = {
            "top_column_position": position,
            "top_column_attention": attention.float(),
            "top_column_token": _tokens_at(position, context.tokens),
        }
        self._table.add(place, state.result() | columns, context.prompts)


class _ValueReader(BlockObserver[ValueState]):
    """``sink_value_ratio`` of every head."""

    def __init__(self, facts: ModelFacts, sink_position: int) -> None:
        self._facts, self._sink_position = facts, sink_position
        super().__init__(PromptTable("layer", facts.n_layers, ("head",)))

    def hooks(self) -> list[Hook]:
        names = [(layer, f"blocks.{layer}.attn.hook_v") for layer in range(self._facts.n_layers)]
        return [(name, partial(self._read, place=layer)) for layer, name in names]

    def _new_state(self, place: int, lengths: Int[Tensor, "batch"]) -> ValueState:
        return ValueState(lengths, self._sink_position)

    def _update(self, state: ValueState, block: Tensor, offset: int) -> None:
        # A norm of Inf would make the ratio 0: a prompt with such a value has none.
        state.update(block.where(block.isfinite(), torch.nan), offset)

    def _finish(self, place: int, state: ValueState, context: BatchContext) -> None:
        ratio = state.result()
        # Grouped-query attention: several query heads read one value head.
        group = self._facts.n_heads // ratio.shape[1]
        ratio = einops.repeat(ratio, "batch value_head -> batch (value_head group)", group=group)
        self._table.add(place, {"sink_value_ratio": ratio}, context.prompts)


def _tokens_at(
    position: Int[Tensor, "batch rank"], tokens: Int[Tensor, "batch pos"] | None
) -> Int[Tensor, "batch rank"]:
    """Ids of the tokens at positions of each prompt; -1 where the position or the token is not known."""
    if tokens is None:
        return torch.full_like(position, -1)
    return tokens.to(position.device).gather(1, position.clamp(min=0)).where(position >= 0, -1)
