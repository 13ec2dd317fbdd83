"""The observer of what attention and MLP write at the sink token."""

from functools import partial
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from mcr_lens.hooks.context import current_context
from mcr_lens.hooks.observers.base import PromptTable, block_context, depth_hook_name
from mcr_lens.hooks.observers.nonfinite import without
from mcr_lens.metrics.residual import write_along
from mcr_lens.models import Hook, Model, model_facts

__all__ = ["WriteObserver"]


class WriteObserver:
    """What attention and MLP of every layer write at the sink position.

    Both components are taken along the state that the block leaves behind, so that
    ``x_pre . u + attention_write_along + mlp_write_along = ||x_post||``. NaN where that state holds Inf or
    NaN at the sink position.
    """

    def __init__(self, model: Model, sink_position: int = 0) -> None:
        facts = model_facts(model)
        facts.require("residual_sum", "reading the writes of attention and MLP")
        self._n_layers = facts.n_layers
        self._sink_position = sink_position
        self.begin(model)

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was read before is forgotten."""
        self._writes: dict[str, Tensor] = {}
        self._table = PromptTable("layer", self._n_layers)

    def hooks(self) -> list[Hook]:
        """Three hooks a layer: two writes, and the state they leave."""
        hooks: list[Hook] = []
        for layer in range(self._n_layers):
            for kind, point in (("attention", "hook_attn_out"), ("mlp", "hook_mlp_out")):
                hooks.append((f"blocks.{layer}.{point}", partial(self._keep, kind=kind)))
            name = depth_hook_name(layer + 1, self._n_layers)
            hooks.append((name, partial(self._read, layer=layer)))
        return hooks

    def result(self) -> xr.Dataset:
        """Norm and component of each write, (prompt, layer)."""
        return self._table.dataset()

    def _at_sink(self, tensor: Tensor, hook: Any) -> Tensor | None:
        at = self._sink_position - block_context(hook).offset
        return tensor[:, at].detach().double() if 0 <= at < tensor.shape[1] else None

    def _keep(self, write: Tensor, hook: Any, kind: str) -> None:
        at_sink = self._at_sink(write, hook)
        if at_sink is not None:
            self._writes[kind] = at_sink

    def _read(self, state: Tensor, hook: Any, layer: int) -> None:
        left_behind = self._at_sink(state, hook)
        if left_behind is None:
            return
        values: dict[str, Tensor] = {}
        for kind in ("attention", "mlp"):
            write = self._writes.pop(kind)
            values[f"{kind}_write_norm"] = torch.linalg.vector_norm(write, dim=-1)
            values[f"{kind}_write_along"] = write_along(write, left_behind)
        broken = ~left_behind.isfinite().all(-1)
        self._table.add(layer, without(broken, values), current_context().prompts)
