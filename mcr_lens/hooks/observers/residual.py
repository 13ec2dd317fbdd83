"""The observer of the residual stream, and the eigenvalues that it leaves for later."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from mcr_lens.hooks.context import BatchContext
from mcr_lens.hooks.observers.base import BlockObserver, PromptTable, depth_hooks
from mcr_lens.hooks.observers.nonfinite import broken_prompts, without
from mcr_lens.metrics.eigenproblems import Eigenvalues
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.metrics.residual_state import ResidualState
from mcr_lens.metrics.threads import on_every_core
from mcr_lens.models import Hook, Model, model_facts

__all__ = ["LaterEigenvalues", "ResidualObserver"]


@dataclass
class _AtDepth:
    state: ResidualState
    broken: Bool[Tensor, "batch"]


class ResidualObserver(BlockObserver[_AtDepth]):
    """Norms, spectrum, activations and bounds of the residual stream at every depth 0..L.

    A prompt whose state holds Inf or NaN at a depth has NaN there in every variable, and cannot touch the
    other prompts of its batch.
    """

    def __init__(
        self,
        model: Model,
        sink_position: int = 0,
        estimator: Estimator = Estimator(),  # noqa: B008  (frozen)
    ) -> None:
        self._n_layers = model_facts(model).n_layers
        self._sink_position = sink_position
        self._estimator = estimator
        super().__init__(PromptTable("depth", self._n_layers + 1))
        self._later = LaterEigenvalues()

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was read before is forgotten."""
        super().begin(model)
        self._later = LaterEigenvalues()

    def hooks(self) -> list[Hook]:
        """One hook a depth."""
        return depth_hooks(self._read, range(self._n_layers + 1), self._n_layers)

    def result(self) -> xr.Dataset:
        """Every (prompt, depth) variable."""
        self._later.finish()
        return super().result()

    def _new_state(self, place: int, lengths: Int[Tensor, "batch"]) -> _AtDepth:
        state = ResidualState(lengths, self._sink_position, self._estimator)
        return _AtDepth(state, torch.zeros(len(lengths), dtype=torch.bool))

    def _update(self, state: _AtDepth, block: Tensor, offset: int) -> None:
        broken = broken_prompts(block, state.state.lengths, offset)
        state.broken = state.broken.to(broken.device) | broken
        # No solver takes NaN: a broken prompt is zeros from here on, and its numbers are thrown away below.
        # On an accelerator asking would wait for it, and filling costs nothing.
        if block.device.type != "cpu" or bool(state.broken.any()):
            block = block.masked_fill(state.broken[:, None, None], 0.0)
        state.state.update(block, offset)

    def _finish(self, place: int, state: _AtDepth, context: BatchContext) -> None:
        def take(values: dict[str, Tensor]) -> None:
            self._table.add(place, without(state.broken, values), context.prompts)

        self._later.add(state.state, take)
        if place == self._n_layers:
            self._later.finish()


class _Waiting(NamedTuple):
    state: ResidualState
    take: Callable[[dict[str, Tensor]], None]


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
        self._waiting.append(_Waiting(state, take))
        if sum(len(waiting.state.lengths) for waiting in self._waiting) >= torch.get_num_threads():
            self._solve()

    def finish(self) -> None:
        """Wait until every result is given out."""
        if self._waiting:
            self._solve()
        while self._under_way:
            self._give_out()

    def _solve(self) -> None:
        lot, self._waiting = self._waiting, []
        states = [waiting.state for waiting in lot]
        if all(state.is_on_host for state in states):
            _give(lot, _solved(states))
            return
        if len(self._under_way) == 2:
            self._give_out()
        self._beside = self._beside or ThreadPoolExecutor(1, "mcr-lens")
        self._under_way.append((lot, self._beside.submit(_solved, states)))

    def _give_out(self) -> None:
        lot, future = self._under_way.popleft()
        _give(lot, future.result())


def _solved(states: Sequence[ResidualState]) -> list[list[Eigenvalues]]:
    """The eigenvalues of every prompt of every state."""
    problems = [state.eigenproblems() for state in states]
    solved = iter(on_every_core([problem for of_state in problems for problem in of_state]))
    return [[next(solved) for _ in of_state] for of_state in problems]


def _give(lot: Sequence[_Waiting], solved: Sequence[Sequence[Eigenvalues]]) -> None:
    for waiting, eigenvalues in zip(lot, solved, strict=True):
        waiting.take(waiting.state.result(eigenvalues))
