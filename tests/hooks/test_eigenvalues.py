"""Eigenvalues solved later: the same numbers, in order, and nothing lost."""

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
from mcr_lens.hooks.observers.residual import LaterEigenvalues
from mcr_lens.metrics import eigenproblems

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
    solve, where = eigenproblems.spectra_of_tokens, set()

    def noted(gram: np.ndarray) -> Any:
        where.add(threading.current_thread().name.split("_")[0])
        return solve(gram)

    monkeypatch.setattr(eigenproblems, "spectra_of_tokens", noted)
    threaded = mcr.profile(model, PROMPTS, progress=False, **options).data
    assert where == {"mcr-lens"}
    torch.set_num_threads(1)
    where.clear()
    inline = mcr.profile(model, PROMPTS, progress=False, **options).data
    assert where == {"MainThread"}
    for name in inline.data_vars:
        np.testing.assert_allclose(threaded[name], inline[name], rtol=1e-5, atol=1e-6, err_msg=str(name))


class State:
    """Stands for the state of two prompts, on the host or on an accelerator."""

    lengths = torch.tensor([3, 3])

    def __init__(self, name: int, on_host: bool) -> None:
        self.name, self.is_on_host = name, on_host

    def eigenproblems(self) -> list[Any]:
        return [lambda: self._solve(0), lambda: self._solve(1)]

    def _solve(self, prompt: int) -> tuple[np.ndarray, np.ndarray]:
        if self.name < 0:
            raise ZeroDivisionError
        return np.array([self.name]), np.array([prompt])

    def result(self, solved: list[Any]) -> dict[str, Any]:
        return {"solved": [(int(full[0]), int(rest[0])) for full, rest in solved]}


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("on_host", [True, False])
def test_results_are_given_out_once_and_in_order(on_host: bool) -> None:
    later, taken = LaterEigenvalues(), []
    for name in range(7):
        later.add(State(name, on_host), taken.append)  # type: ignore[arg-type]
        # Two states of two prompts fill four threads; at most two such lots are under way.
        assert len(taken) >= (name + 1) // 2 * 2 - (0 if on_host else 4)
    later.finish()
    assert taken == [{"solved": [(name, 0), (name, 1)]} for name in range(7)]
    later.finish()
    assert len(taken) == 7


@pytest.mark.parametrize("on_host", [True, False])
def test_what_fails_fails_the_run(on_host: bool) -> None:
    later = LaterEigenvalues()

    def run() -> None:
        later.add(State(-1, on_host), lambda values: None)  # type: ignore[arg-type]
        later.finish()

    with pytest.raises(ZeroDivisionError):
        run()
