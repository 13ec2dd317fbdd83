"""Eigenvalues wait until there is work for every core, or run beside a forward pass on an accelerator."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from mcr_lens.metrics.eigenproblems import Eigenvalues
from mcr_lens.metrics.residual_state import ResidualState
from mcr_lens.metrics.threads import on_every_core

__all__ = ["SolveLater"]


class _Waiting(NamedTuple):
    state: ResidualState
    take: Callable[[dict[str, Tensor]], None]


class SolveLater:
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
