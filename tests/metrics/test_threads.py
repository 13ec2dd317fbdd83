"""Calls on every core: their results in order, what they raise, and a BLAS that keeps its threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
import torch
from threadpoolctl import threadpool_info

from mcr_lens.metrics import lapack
from mcr_lens.metrics.threads import on_every_core


@pytest.fixture(params=[1, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_from_as_many_threads(threads: int) -> None:
    gate = threading.Barrier(threads)
    where: set[str] = set()

    def work(number: int) -> int:
        where.add(threading.current_thread().name)
        gate.wait(10)  # passes only when as many calls run at once
        return number

    calls = [lambda number=number: work(number) for number in range(3 * threads)]
    assert on_every_core(calls) == list(range(3 * threads))
    assert len(where) == threads
    assert (where == {"MainThread"}) == (threads == 1)
    assert on_every_core([]) == []


@pytest.mark.usefixtures("threads")
def test_what_a_call_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        on_every_core([lambda: 1, lambda: 1 // 0, lambda: 3])


def test_after_an_error_nobody_waits_for_the_rest(threads: int) -> None:
    begun: list[int] = []
    gate = threading.Event()

    def wait(number: int) -> None:
        begun.append(number)
        gate.wait(0.2)

    calls = [lambda: 1 // 0, *(lambda number=number: wait(number) for number in range(40))]
    with pytest.raises(ZeroDivisionError):
        on_every_core(calls)
    gate.set()
    on_every_core([lambda: 1] * threads)
    assert len(begun) < 40


@pytest.mark.usefixtures("threads")
def test_blas_has_one_thread_inside_and_its_own_afterwards() -> None:
    lapack.tridiagonalise(torch.eye(3, dtype=torch.float64).numpy())  # loads SciPy's library

    def counts() -> list[tuple[str, int]]:
        return [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info() if _is_blas(pool)]

    before = counts()
    inside = on_every_core([counts, counts, counts])
    assert before and all(count == 1 for found in inside for _, count in found)
    assert counts() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_process_has_threads_of_its_own(threads: int) -> None:
    on_every_core([lambda: 1] * threads)
    child = os.fork()
    if child == 0:
        os._exit(on_every_core([lambda: 7] * threads)[0])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def _is_blas(pool: dict[str, object]) -> bool:
    return pool["user_api"] == "blas"
