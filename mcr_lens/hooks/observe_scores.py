"""The observer of attention scores: for passes in which an edit of them may empty a row on purpose."""

from functools import partial
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from mcr_lens.hooks.context import current_context
from mcr_lens.hooks.finite import first_broken_score
from mcr_lens.hooks.prompt_table import PromptTable
from mcr_lens.models import Hook, Model, model_facts

__all__ = ["LOST_SCORE", "ScoreObserver"]

# First position of each prompt and layer whose scores are no distribution; on its way to the result.
LOST_SCORE = "lost_score"


class ScoreObserver:
    """Where an edit of ``hook_attn_scores`` left NaN or +Inf, of which HookedTransformer makes rows of zeros.

    Minus infinity is how a key is knocked out, also the only one of a row: nothing is broken then.
    """

    def __init__(self, model: Model) -> None:
        self._n_layers = model_facts(model).n_layers
        self._clear()

    def hooks(self) -> list[Hook]:
        """One hook a layer; what was read before is forgotten."""
        self._clear()
        layers = range(self._n_layers)
        return [(f"blocks.{i}.attn.hook_attn_scores", partial(self._read, layer=i)) for i in layers]

    def result(self) -> xr.Dataset:
        """``LOST_SCORE`` (prompt, layer), -1 where all is well."""
        return self._table.dataset()

    def _clear(self) -> None:
        self._table = PromptTable("layer", self._n_layers)
        self._first: dict[int, Tensor] = {}

    def _read(self, scores: Tensor, hook: Any, layer: int) -> None:
        context = current_context()
        batch, _, queries, _ = scores.shape
        found = first_broken_score(scores, context.prompt_lengths(batch, queries), context.offset)
        before = self._first.get(layer, torch.full_like(found, -1))
        self._first[layer] = before.where(before >= 0, found)
        if context.ends_with(queries):
            self._table.add(layer, {LOST_SCORE: self._first.pop(layer)}, context.prompts)
