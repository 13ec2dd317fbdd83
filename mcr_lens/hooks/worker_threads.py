"""Work that a hook hands on, so that the next block can run meanwhile."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

__all__ = ["WorkerThreads"]

T = TypeVar("T")


class WorkerThreads(Generic[T]):
    """A few threads beside those of the forward pass; a queue that cannot grow.

    Half as many as PyTorch computes with: with one thread there are none, and the work is done at once, so
    that a process told to use one core uses one. What is queued holds a prompt's states, so no more than two
    pieces a thread wait; the hook waits when there are more.

    Example:
        >>> threads = WorkerThreads()
        >>> for number in (3, 4):
        ...     threads.submit(lambda number=number: number**2)
        >>> threads.collect()
        [9, 16]
    """

    def __init__(self) -> None:
        self._count = torch.get_num_threads() // 2
        self._pool = ThreadPoolExecutor(self._count, "mcr-lens") if self._count else None
        self._running: deque[Future[T]] = deque()
        self._done: list[T] = []

    def submit(self, work: Callable[[], T]) -> None:
        """Hand over a piece of work. What an earlier piece raised may be raised here."""
        if self._pool is None:
            self._done.append(work())
            return
        while len(self._running) >= 2 * self._count:
            self._done.append(self._running.popleft().result())
        self._running.append(self._pool.submit(work))

    def collect(self) -> list[T]:
        """Wait for everything that was handed over; the results in that order, once."""
        while self._running:
            self._done.append(self._running.popleft().result())
        done, self._done = self._done, []
        return done
