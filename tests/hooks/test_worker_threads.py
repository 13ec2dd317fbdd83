"""Work beside the forward pass: the same numbers, in order, and nothing lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS

import mcr_lens as mcr
from mcr_lens.hooks.worker_threads import WorkerThreads
from mcr_lens.metrics import spectrum

PROMPTS = mcr.Prompts.from_tokens([[1, *range(3, 30)], [1, *range(20, 42)], [1, *range(30, 54)]])


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"chunk": 7}, {"batch_size": 1}], ids=str)
def test_a_profile_is_the_same_with_threads(
    llama_folder: Path, backend: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mcr.load_model(llama_folder, backend=backend)
    solve, where = spectrum.spectra_of_tokens, set()

    def noted(gram: np.ndarray) -> Any:
        where.add(threading.current_thread().name.split("_")[0])
        return solve(gram)

    monkeypatch.setattr(spectrum, "spectra_of_tokens", noted)
    threaded = mcr.profile(model, PROMPTS, progress=False, **options).data
    assert where == {"mcr-lens"}
    torch.set_num_threads(1)
    where.clear()
    inline = mcr.profile(model, PROMPTS, progress=False, **options).data
    assert where == {"MainThread"}
    for name in inline.data_vars:
        np.testing.assert_allclose(threaded[name], inline[name], rtol=1e-5, atol=1e-6, err_msg=str(name))


@pytest.mark.usefixtures("four_threads")
def test_results_come_in_order_and_the_queue_does_not_grow() -> None:
    threads: WorkerThreads[int] = WorkerThreads()
    running, most, lock = 0, 0, threading.Lock()
    gate = threading.Event()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running, most = running + 1, max(most, running + 1)
        gate.wait(5)
        with lock:
            running -= 1
        return number

    threading.Timer(0.2, gate.set).start()
    for number in range(12):
        threads.submit(lambda number=number: work(number))
        assert len(threads._running) <= 4
    assert threads.collect() == list(range(12))
    assert threads.collect() == []
    assert most == 2


@pytest.mark.usefixtures("four_threads")
def test_what_fails_on_a_thread_fails_the_run() -> None:
    threads: WorkerThreads[float] = WorkerThreads()
    threads.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        threads.collect()
