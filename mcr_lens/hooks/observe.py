"""The standard observers: hooks that only read, and reduce inside the hook.

An observer is anything with ``.hooks()``, a plain list of TransformerLens hooks, and ``.result()``, an
``xarray.Dataset`` with a ``prompt`` dimension. The three here make a profile; yours goes beside them in
``mcr_lens.measure(model, prompts, observers=[...])``.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
import xarray as xr
from torch import Tensor

from mcr_lens.hooks.context import current_context
from mcr_lens.hooks.finite import first_not_finite, without
from mcr_lens.hooks.observe_attention import AttentionObserver
from mcr_lens.hooks.prompt_table import PromptTable
from mcr_lens.hooks.solve_later import SolveLater
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.metrics.residual import write_along
from mcr_lens.metrics.residual_state import ResidualState
from mcr_lens.models import Hook, Model, model_facts, require
from mcr_lens.not_finite import NOT_FINITE, with_first_broken

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
    """Norms, spectrum, activations and bounds of the residual stream at every depth 0..L.

    A prompt whose state holds Inf or NaN at a depth has NaN there in every variable, and cannot touch the
    other prompts of its batch. Where that begins is told by two coordinates of the prompt,
    ``not_finite_depth`` and ``not_finite_position`` (-1: all is finite), and by a ``RuntimeWarning``.
    """

    def __init__(
        self,
        model: Model,
        sink_position: int = 0,
        estimator: Estimator = Estimator(),  # noqa: B008  (frozen)
    ) -> None:
        facts = model_facts(model)
        self._n_layers, self._dtype = facts.n_layers, facts.dtype
        self._sink_position = sink_position
        self._estimator = estimator
        self._clear()

    def hooks(self) -> list[Hook]:
        """One hook a depth; what was read before is forgotten."""
        self._clear()
        depths = range(self._n_layers + 1)
        return [(depth_hook_name(d, self._n_layers), partial(self._read, depth=d)) for d in depths]

    def result(self) -> xr.Dataset:
        """Every (prompt, depth) variable."""
        self._later.finish()
        data = self._table.dataset()
        # Nothing in it: nothing was run.
        return with_first_broken(data, self._dtype) if NOT_FINITE in data else data

    def _clear(self) -> None:
        self._states: dict[int, ResidualState] = {}
        self._first_broken: dict[int, Tensor] = {}
        self._table = PromptTable("depth", self._n_layers + 1)
        self._later = SolveLater()

    def _read(self, residual: Tensor, hook: Any, depth: int) -> None:
        context = current_context()
        batch, rows, _ = residual.shape
        lengths = context.prompt_lengths(batch, rows)
        residual = residual.detach()
        first = first_not_finite(residual, lengths, context.offset)
        if context.offset == 0:
            self._states[depth] = ResidualState(lengths, self._sink_position, self._estimator)
            self._first_broken[depth] = first
        before = self._first_broken[depth]
        self._first_broken[depth] = first = before.where(before >= 0, first)
        # No solver takes NaN: a broken prompt is zeros from here on, and its numbers are thrown away below.
        broken = first >= 0
        # On an accelerator asking would wait for it, and filling costs nothing.
        if residual.device.type != "cpu" or bool(broken.any()):
            residual = residual.masked_fill(broken[:, None, None], 0.0)
        self._states[depth].update(residual, context.offset)
        if context.ends_with(rows):
            state, first = self._states.pop(depth), self._first_broken.pop(depth)
            self._later.add(state, partial(self._add, depth, first, context.prompts))
            if depth == self._n_layers:
                self._later.finish()

    def _add(
        self, depth: int, first: Tensor, prompts: Sequence[int] | None, values: dict[str, Tensor]
    ) -> None:
        """Every variable of one depth and batch; NaN for the prompts that are broken there."""
        self._table.add(depth, without(first >= 0, values) | {NOT_FINITE: first}, prompts)


class WriteObserver:
    """What attention and MLP of every layer write at the sink position.

    Both components are taken along the state that the block leaves behind, so that
    ``x_pre . u + attention_write_along + mlp_write_along = ||x_post||``. NaN where that state holds Inf or
    NaN at any position of the prompt.
    """

    def __init__(self, model: Model, sink_position: int = 0) -> None:
        require(model, "residual_sum", "reading the writes of attention and MLP")
        self._n_layers = model_facts(model).n_layers
        self._sink_position = sink_position
        self._clear()

    def hooks(self) -> list[Hook]:
        """Three hooks a layer (two writes, the state they leave); what was read before is forgotten."""
        self._clear()
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

    def _clear(self) -> None:
        self._writes: dict[str, Tensor] = {}
        self._found: dict[int, dict[str, Tensor]] = {}
        self._broken: dict[int, Tensor] = {}
        self._table = PromptTable("layer", self._n_layers)

    def _at_sink(self, tensor: Tensor) -> Tensor | None:
        at = self._sink_position - current_context().offset
        return tensor[:, at].detach().double() if 0 <= at < tensor.shape[1] else None

    def _keep(self, write: Tensor, hook: Any, kind: str) -> None:
        at_sink = self._at_sink(write)
        if at_sink is not None:
            self._writes[kind] = at_sink

    def _read(self, state: Tensor, hook: Any, layer: int) -> None:
        context = current_context()
        lengths = context.prompt_lengths(*state.shape[:2])
        broken = first_not_finite(state, lengths, context.offset) >= 0
        self._broken[layer] = broken if context.offset == 0 else broken | self._broken[layer]
        left_behind = self._at_sink(state)
        if left_behind is not None:
            found = self._found[layer] = {}
            for kind in ("attention", "mlp"):
                write = self._writes.pop(kind)
                found[f"{kind}_write_norm"] = torch.linalg.vector_norm(write, dim=-1)
                found[f"{kind}_write_along"] = write_along(write, left_behind)
        if context.ends_with(state.shape[1]):
            found = without(self._broken.pop(layer), self._found.pop(layer))
            self._table.add(layer, found, context.prompts)
