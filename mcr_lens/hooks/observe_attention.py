"""The observer of attention: every head's scores, and the positions of a layer that act as sinks."""

from functools import partial
from typing import Any

import einops
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mcr_lens.hooks.context import current_context
from mcr_lens.hooks.finite import first_lost_row, first_not_finite, without
from mcr_lens.hooks.prompt_table import PromptTable
from mcr_lens.metrics.attention_state import AttentionState
from mcr_lens.metrics.value_state import ValueState
from mcr_lens.models import Hook, Model, model_facts, require

__all__ = ["LOST_ROW", "AttentionObserver"]

# First position of each prompt and layer at which a head attends to nothing; on its way to the result.
LOST_ROW = "lost_row"


class AttentionObserver:
    """Sinks, mixing, identity and previous-token scores of every head. No pattern outlives its hook.

    Of every layer it also keeps the few positions that later queries attend to most, whichever they are,
    with the attention that each head pays them (``top_column_position``, ``top_column_attention``; see
    ``AttentionState.top_columns``) and the token that stands there (``top_column_token``).
    """

    def __init__(self, model: Model, sink_position: int = 0) -> None:
        require(model, "pattern_rows", "reading attention patterns")
        self._facts = model_facts(model)
        self._sink_position = sink_position
        # Left out where the self-check found that they are not what attention adds up.
        sound = "value_rows" not in self._facts.failed_checks
        self._has_values = sound and "blocks.0.attn.hook_v" in model.hook_dict
        self._clear()

    def hooks(self) -> list[Hook]:
        """Two hooks a layer (value vectors, pattern); what was read before is forgotten."""
        self._clear()
        hooks: list[Hook] = []
        for layer in range(self._facts.n_layers):
            if self._has_values:
                read = (f"blocks.{layer}.attn.hook_v", partial(self._read_values, layer=layer))
            else:
                read = (f"blocks.{layer}.hook_resid_pre", partial(self._see_broken, layer=layer))
            hooks += [read, (f"blocks.{layer}.attn.hook_pattern", partial(self._read_pattern, layer=layer))]
        return hooks

    def result(self) -> xr.Dataset:
        """Every (prompt, layer, head) variable, and the top columns, (prompt, layer, rank[, head])."""
        tables = (self._table, self._columns, self._rows)
        data = xr.merge([table.dataset() for table in tables], join="outer", compat="no_conflicts")
        data = data.assign_coords(head=range(self._facts.n_heads))
        return data.set_coords("top_column_token") if "top_column_token" in data else data

    def _clear(self) -> None:
        self._patterns: dict[int, AttentionState] = {}
        self._values: dict[int, ValueState] = {}
        self._broken: dict[int, Tensor] = {}
        self._lost: dict[int, Tensor] = {}
        self._rows = PromptTable("layer", self._facts.n_layers)
        self._table = PromptTable("layer", self._facts.n_layers, trailing=("head",))
        self._columns = PromptTable("layer", self._facts.n_layers, trailing=("rank", "head"))

    def _lost_rows(self, pattern: Tensor, offset: int, layer: int) -> Int[Tensor, "batch"]:
        """As ``first_lost_row``, but for a learned sink, which may rightly take all."""
        if self._facts.learned_sink or current_context().prompts is None:
            return torch.full((len(pattern),), -1, device=pattern.device)
        return first_lost_row(pattern, self._patterns[layer].lengths, offset)

    def _see_broken(self, tensor: Tensor, hook: Any, layer: int) -> None:
        """Remember the prompts with Inf or NaN in what attention reads.

        Patterns do not tell: a HookedTransformer makes rows of NaN into rows of zeros, which are left out.
        """
        context = current_context()
        lengths = context.prompt_lengths(*tensor.shape[:2])
        broken = first_not_finite(tensor, lengths, context.offset) >= 0
        self._broken[layer] = broken if context.offset == 0 else broken | self._broken[layer]

    def _read_values(self, values: Tensor, hook: Any, layer: int) -> None:
        self._see_broken(values, hook, layer)
        context = current_context()
        batch, rows = values.shape[:2]
        if context.offset == 0:
            self._values[layer] = ValueState(context.prompt_lengths(batch, rows), self._sink_position)
        self._values[layer].update(values, context.offset)
        if context.ends_with(rows):
            ratio = self._values.pop(layer).result()
            # Grouped-query attention: several query heads read one value head.
            group = self._facts.n_heads // ratio.shape[1]
            ratio = einops.repeat(ratio, "batch value_head -> batch (value_head group)", group=group)
            found = without(self._broken[layer], {"sink_value_ratio": ratio})
            self._table.add(layer, found, context.prompts)

    def _read_pattern(self, pattern: Tensor, hook: Any, layer: int) -> None:
        context = current_context()
        batch, _, queries, keys = pattern.shape
        if context.offset == 0:
            lengths = context.prompt_lengths(batch, queries)
            window = self._facts.windows[layer]
            self._patterns[layer] = AttentionState(lengths, self._sink_position, window)
            self._lost[layer] = torch.full((batch,), -1, device=pattern.device)
        lost, before = self._lost_rows(pattern, context.offset, layer), self._lost[layer]
        self._lost[layer] = before.where(before >= 0, lost)
        state = self._patterns[layer]
        state.update(pattern, context.offset, first_key=context.offset + queries - keys)
        if context.ends_with(queries):
            broken = self._broken.pop(layer)
            position, attention = self._patterns.pop(layer).top_columns()
            columns = {
                "top_column_position": position,
                "top_column_attention": attention.float(),
                "top_column_token": _tokens_at(position, context.tokens),
            }
            self._table.add(layer, without(broken, state.result()), context.prompts)
            self._rows.add(layer, {LOST_ROW: self._lost.pop(layer)}, context.prompts)
            self._columns.add(layer, without(broken, columns), context.prompts)


def _tokens_at(
    position: Int[Tensor, "batch rank"], tokens: Int[Tensor, "batch pos"] | None
) -> Int[Tensor, "batch rank"]:
    """Ids of the tokens at positions of each prompt; -1 where the position or the token is not known."""
    if tokens is None:
        return torch.full_like(position, -1)
    return tokens.to(position.device).gather(1, position.clamp(min=0)).where(position >= 0, -1)
