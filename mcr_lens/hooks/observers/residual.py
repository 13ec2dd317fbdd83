"""The observers of the residual stream and of what is written into it; eigenvalues solved later."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from mcr_lens.hooks.observers.base import BlockObserver, PromptTable, depth_hook_name, depth_points
from mcr_lens.hooks.observers.nonfinite import broken_prompts, without
from mcr_lens.hooks.observers.rows import Rows
from mcr_lens.metrics.eigenproblems import Eigenvalues
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.metrics.residual import write_along
from mcr_lens.metrics.residual_state import ResidualState
from mcr_lens.metrics.rows import SinkPositions
from mcr_lens.metrics.threads import on_every_core
from mcr_lens.models import Hook, Model, model_facts

__all__ = ["LaterEigenvalues", "ResidualObserver", "WriteObserver"]

_StateAndBroken = tuple[ResidualState, Bool[Tensor, "batch"]]
_Waiting = tuple[ResidualState, Callable[[dict[str, Tensor]], None]]


class ResidualObserver(BlockObserver[_StateAndBroken]):
    """Norms, spectrum, activations and bounds of the residual stream at every depth 0..L.

    A prompt whose state holds Inf or NaN at a depth has NaN there in every variable, and cannot touch the
    other prompts of its batch.
    """

    def __init__(
        self,
        model: Model,
        sink_position: SinkPositions = 0,
        estimator: Estimator = Estimator(),  # noqa: B008  (frozen)
    ) -> None:
        points = depth_points(model_facts(model).n_layers)
        super().__init__(points, PromptTable("depth", points))
        self._sink_position, self._estimator = sink_position, estimator
        self._later = LaterEigenvalues()

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was read before is forgotten."""
        super().begin(model)
        self._later = LaterEigenvalues()

    def result(self) -> xr.Dataset:
        """Every (prompt, depth) variable."""
        self._later.finish()
        return super().result()

    def _fold(self, state: _StateAndBroken | None, block: Tensor, rows: Rows, place: int) -> _StateAndBroken:
        broken = broken_prompts(block, rows)
        if state is None:
            sums = ResidualState(rows.host_lengths, self._sink_position, self._estimator)
        else:
            sums, broken = state[0], broken | state[1].to(broken.device)
        # No solver takes NaN: a broken prompt is zeros from here on, and its numbers are thrown away below.
        # On an accelerator asking would wait for it, and filling costs nothing.
        if block.device.type != "cpu" or bool(broken.any()):
            block = block.masked_fill(broken[:, None, None], 0.0)
        sums.update(block, rows.context.offset)
        return sums, broken

    def _finish(self, state: _StateAndBroken, rows: Rows, place: int) -> None:
        self._later.add(state[0], partial(self._add, state[1], rows.context.prompts, place))
        if place == len(self._points) - 1:
            self._later.finish()

    def _add(
        self, broken: Tensor, prompts: tuple[int, ...] | None, place: int, values: dict[str, Tensor]
    ) -> None:
        self._table.add(place, without(broken, values), prompts)


class WriteObserver(BlockObserver[None]):
    """What attention and MLP of every layer write at the sink position.

    Both components are taken along the state that the block leaves behind, so that
    ``x_pre . u + attention_write_along + mlp_write_along = ||x_post||``. NaN where that state holds Inf or
    NaN at the sink position.
    """

    def __init__(self, model: Model, sink_position: int = 0) -> None:
        facts = model_facts(model)
        facts.require("residual_sum", "reading the writes of attention and MLP")
        points = {layer: depth_hook_name(layer + 1, facts.n_layers) for layer in range(facts.n_layers)}
        super().__init__(points, PromptTable("layer", points))
        self._sink_position = sink_position
        self._writes: dict[str, Tensor] = {}

    def hooks(self) -> list[Hook]:
        """Three hooks a layer: two writes, and the state they leave."""
        kinds = {"attention": "hook_attn_out", "mlp": "hook_mlp_out"}
        keep: list[Hook] = [
            (f"blocks.{layer}.{point}", partial(self._keep, kind=kind))
            for layer in self._points
            for kind, point in kinds.items()
        ]
        return keep + super().hooks()

    def _keep(self, write: Tensor, hook: Any, kind: str) -> None:
        self._writes[kind] = Rows(write, hook).at(write.detach(), self._sink_position).double()

    def _take(self, block: Tensor, rows: Rows, place: int) -> None:
        # NaN in a chunk without the sink, which the table takes for no news.
        left_behind = rows.at(block, self._sink_position).double()
        values: dict[str, Tensor] = {}
        for kind, write in self._writes.items():
            values[f"{kind}_write_norm"] = torch.linalg.vector_norm(write, dim=-1)
            values[f"{kind}_write_along"] = write_along(write, left_behind)
        self._table.add(place, without(~left_behind.isfinite().all(-1), values), rows.context.prompts)


class LaterEigenvalues:
    """Results of states, given out when their eigenvalues are solved.

    Eigenvalues take longer than all else that is read of the residual stream. On the host they are solved
    as soon as as many prompts wait as PyTorch has threads, one prompt a thread: the forward pass keeps every
    core busy itself, so that nothing is won by solving beside it. A pass on an accelerator goes on meanwhile;
    no more than two lots are then under way, since each holds its prompts' rows or Grams.
    """

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._under_way: deque[tuple[list[_Waiting], Future[list[list[Eigenvalues]]]]] = deque()
        self._beside: ThreadPoolExecutor | None = None

    def add(self, state: ResidualState, take: Callable[[dict[str, Tensor]], None]) -> None:
        """Hand over a state with all its rows; ``take`` gets its result, from ``finish`` at the latest."""
        self._waiting.append((state, take))
        if sum(len(state.lengths) for state, _ in self._waiting) >= torch.get_num_threads():
            self._solve()

    def finish(self) -> None:
        """Wait until every result is given out."""
        if self._waiting:
            self._solve()
        while self._under_way:
            self._give_out()

    def _solve(self) -> None:
        lot, self._waiting = self._waiting, []
        if all(state.is_on_host for state, _ in lot):
            _give(lot, _solved(lot))
            return
        if len(self._under_way) == 2:
            self._give_out()
        self._beside = self._beside or ThreadPoolExecutor(1, "mcr-lens")
        self._under_way.append((lot, self._beside.submit(_solved, lot)))

    def _give_out(self) -> None:
        lot, future = self._under_way.popleft()
        _give(lot, future.result())


def _solved(lot: Sequence[_Waiting]) -> list[list[Eigenvalues]]:
    """The eigenvalues of every prompt of every state."""
    problems = [state.eigenproblems() for state, _ in lot]
    solved = iter(on_every_core([problem for of_state in problems for problem in of_state]))
    return [[next(solved) for _ in of_state] for of_state in problems]


def _give(lot: Sequence[_Waiting], solved: Sequence[Sequence[Eigenvalues]]) -> None:
    for (state, take), eigenvalues in zip(lot, solved, strict=True):
        take(state.result(eigenvalues))
