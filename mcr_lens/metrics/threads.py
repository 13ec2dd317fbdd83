"""Independent solves on all cores at once."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

from mcr_lens.metrics.lapack import one_blas_thread

__all__ = ["on_every_core"]

T = TypeVar("T")


def on_every_core(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What each call returns, in their order; what one raises is raised.

    The calls run on as many threads as PyTorch computes with, BLAS on one thread each: a matrix of a few
    hundred rows gains nothing from a second thread, but two matrices do. A process that is told to use one
    core uses one.

    Example:
        >>> on_every_core([lambda: 3**2, lambda: 4**2])
        [9, 16]
    """
    count = torch.get_num_threads()
    with one_blas_thread():
        if min(count, len(calls)) < 2:
            return [call() for call in calls]
        pool = _pool(os.getpid(), count)
        futures = [pool.submit(call) for call in calls]
        try:
            return [future.result() for future in futures]
        finally:
            # After an error or Ctrl-C nobody wants the rest, and the next caller would wait for it.
            for future in futures:
                future.cancel()


@cache
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    """The threads of a process, kept: they do not survive a fork, so that a child makes its own."""
    return ThreadPoolExecutor(count, "mcr-lens")
