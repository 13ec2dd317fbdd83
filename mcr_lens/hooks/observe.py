"""The standard observers: hooks that only read, and reduce inside the hook.

An observer is anything with ``.hooks()``, a plain list of TransformerLens hooks, and ``.result()``, an
``xarray.Dataset`` with a ``prompt`` dimension. The three here make a profile; yours goes beside them in
``mcr_lens.measure(model, prompts, observers=[...])``.
"""

from functools import partial
from typing import Any, Protocol, runtime_checkable

import einops
import torch
import xarray as xr
from torch import Tensor

from mcr_lens.hooks.context import current_context
from mcr_lens.hooks.prompt_table import PromptTable
from mcr_lens.metrics.attention_state import AttentionState
from mcr_lens.metrics.residual import write_along
from mcr_lens.metrics.residual_state import ResidualState
from mcr_lens.metrics.spectrum import Estimator
from mcr_lens.metrics.value_state import ValueState
from mcr_lens.models import Hook, Model, model_facts, require

__all__ = ["AttentionObserver", "Observer", "ResidualObserver", "WriteObserver", "depth_hook_name"]


@runtime_checkable
class Observer(Protocol):
    """What ``measure`` needs of an observer."""

    def hooks(self) -> list[Hook]:
        """Hooks that read and return ``None``."""
        ...

    def result(self) -> xr.Dataset:
        """What was read, with a ``prompt`` dimension."""
        ...


def depth_hook_name(depth: int, n_layers: int) -> str:
    """The hook point where the residual stream of a depth is read.

    Every depth but the last is read where the next block takes it in, so that a user's edit of
    ``hook_resid_pre`` is seen.
    """
    if depth < n_layers:
        return f"blocks.{depth}.hook_resid_pre"
    return f"blocks.{n_layers - 1}.hook_resid_post"


class ResidualObserver:
    """Norms, spectrum, activations and bounds of the residual stream at every depth 0..L."""

    def __init__(
        self,
        model: Model,
        sink_position: int = 0,
        estimator: Estimator = Estimator(),  # noqa: B008  (frozen)
    ) -> None:
        self._n_layers = model_facts(model).n_layers
        self._sink_position = sink_position
        self._estimator = estimator
        self._states: dict[int, ResidualState] = {}
        self._table = PromptTable("depth", self._n_layers + 1)

    def hooks(self) -> list[Hook]:
        """One hook a depth; what was read before is forgotten."""
        self._table = PromptTable("depth", self._n_layers + 1)
        depths = range(self._n_layers + 1)
        return [(depth_hook_name(d, self._n_layers), partial(self._read, depth=d)) for d in depths]

    def result(self) -> xr.Dataset:
        """Every (prompt, depth) variable."""
        return self._table.dataset()

    def _read(self, residual: Tensor, hook: Any, depth: int) -> None:
        context = current_context()
        batch, rows, _ = residual.shape
        if context.offset == 0:
            lengths = context.prompt_lengths(batch, rows)
            self._states[depth] = ResidualState(lengths, self._sink_position, self._estimator)
        self._states[depth].update(residual.detach(), context.offset)
        if context.ends_with(rows):
            self._table.add(depth, self._states.pop(depth).result(), context.prompts)


class WriteObserver:
    """What attention and MLP of every layer write at the sink position.

    Both components are taken along the state that the block leaves behind, so that
    ``x_pre . u + attention_write_along + mlp_write_along = ||x_post||``.
    """

    def __init__(self, model: Model, sink_position: int = 0) -> None:
        require(model, "residual_sum", "reading the writes of attention and MLP")
        self._n_layers = model_facts(model).n_layers
        self._sink_position = sink_position
        self._writes: dict[str, Tensor] = {}
        self._table = PromptTable("layer", self._n_layers)

    def hooks(self) -> list[Hook]:
        """Three hooks a layer (two writes, the state they leave); what was read before is forgotten."""
        self._table = PromptTable("layer", self._n_layers)
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

    def _at_sink(self, tensor: Tensor) -> Tensor | None:
        at = self._sink_position - current_context().offset
        return tensor[:, at].detach().double() if 0 <= at < tensor.shape[1] else None

    def _keep(self, write: Tensor, hook: Any, kind: str) -> None:
        at_sink = self._at_sink(write)
        if at_sink is not None:
            self._writes[kind] = at_sink

    def _read(self, state: Tensor, hook: Any, layer: int) -> None:
        left_behind = self._at_sink(state)
        if left_behind is None:
            return
        values = {}
        for kind in ("attention", "mlp"):
            write = self._writes.pop(kind)
            values[f"{kind}_write_norm"] = torch.linalg.vector_norm(write, dim=-1)
            values[f"{kind}_write_along"] = write_along(write, left_behind)
        self._table.add(layer, values, current_context().prompts)


class AttentionObserver:
    """Sinks, mixing, identity and previous-token scores of every head. No pattern outlives its hook."""

    def __init__(self, model: Model, sink_position: int = 0) -> None:
        require(model, "pattern_rows", "reading attention patterns")
        self._facts = model_facts(model)
        self._sink_position = sink_position
        self._has_values = "blocks.0.attn.hook_v" in model.hook_dict
        self._patterns: dict[int, AttentionState] = {}
        self._values: dict[int, ValueState] = {}
        self._table = PromptTable("layer", self._facts.n_layers, trailing=("head",))

    def hooks(self) -> list[Hook]:
        """Two hooks a layer (value vectors, pattern); what was read before is forgotten."""
        self._table = PromptTable("layer", self._facts.n_layers, trailing=("head",))
        hooks: list[Hook] = []
        for layer in range(self._facts.n_layers):
            if self._has_values:
                name = f"blocks.{layer}.attn.hook_v"
                hooks.append((name, partial(self._read_values, layer=layer)))
            name = f"blocks.{layer}.attn.hook_pattern"
            hooks.append((name, partial(self._read_pattern, layer=layer)))
        return hooks

    def result(self) -> xr.Dataset:
        """Every (prompt, layer, head) variable."""
        return self._table.dataset().assign_coords(head=range(self._facts.n_heads))

    def _read_values(self, values: Tensor, hook: Any, layer: int) -> None:
        context = current_context()
        batch, rows = values.shape[:2]
        if context.offset == 0:
            lengths = context.prompt_lengths(batch, rows)
            self._values[layer] = ValueState(lengths, self._sink_position)
        self._values[layer].update(values, context.offset)
        if context.ends_with(rows):
            ratio = self._values.pop(layer).result()
            # Grouped-query attention: several query heads read one value head.
            group = self._facts.n_heads // ratio.shape[1]
            ratio = einops.repeat(ratio, "batch value_head -> batch (value_head group)", group=group)
            self._table.add(layer, {"sink_value_ratio": ratio}, context.prompts)

    def _read_pattern(self, pattern: Tensor, hook: Any, layer: int) -> None:
        context = current_context()
        batch, _, queries, keys = pattern.shape
        if context.offset == 0:
            lengths = context.prompt_lengths(batch, queries)
            window = self._facts.windows[layer]
            self._patterns[layer] = AttentionState(lengths, self._sink_position, window)
        state = self._patterns[layer]
        state.update(pattern, context.offset, first_key=context.offset + queries - keys)
        if context.ends_with(queries):
            self._table.add(layer, self._patterns.pop(layer).result(), context.prompts)
