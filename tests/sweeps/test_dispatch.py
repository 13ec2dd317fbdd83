"""What the driver of a sweep does with what workers answer: with a cluster that follows a script."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcr_lens as mcr
from mcr_lens.models.memory import Sharing
from mcr_lens.sweeps import Grid, RayEngine, ResultFolder, SweepArm, SweepModel, SweepPrompts, cells
from mcr_lens.sweeps.crew import Crew
from mcr_lens.sweeps.dispatch import Dispatcher
from mcr_lens.sweeps.folder import Failure
from mcr_lens.sweeps.progress import SweepProgress
from mcr_lens.sweeps.queue import TaskQueue
from mcr_lens.sweeps.worker import Failed


class Died(Exception):
    """What a call to a worker that is gone raises, as Ray's own error does."""


class NotSent(Died):
    """What Ray raises for a result that cannot be sent."""


class Call:
    """What is asked of a worker, and how it ends."""

    def __init__(self, end: Any) -> None:
        self.end = end


class Script:
    """In place of the module ``ray``: starts of workers, and their runs, end as they are told, in order."""

    exceptions = SimpleNamespace(RayError=Died, RayTaskError=NotSent)

    def __init__(self, starts: Iterable[Any], runs: Iterable[Any]) -> None:
        self._ends = {"ready": iter(starts), "run": iter(runs)}
        self.asked: list[str] = []
        self.given: list[Any] = []

    def remote(self, kind: type) -> Any:
        def ask(name: str) -> Call:
            self.asked.append(name)
            return Call(next(self._ends[name]))

        def actor(*given: Any) -> Any:
            self.given.append(given)
            calls = {name: SimpleNamespace(remote=lambda *_, name=name: ask(name)) for name in self._ends}
            return SimpleNamespace(**calls)

        return SimpleNamespace(options=lambda **given: SimpleNamespace(remote=actor))

    def wait(self, calls: list[Call], **given: Any) -> tuple[list[Call], list[Call]]:
        return calls[:1], calls[1:]

    def get(self, call: Call) -> Any:
        if isinstance(call.end, Exception):
            raise call.end
        return call.end

    def kill(self, actor: Any) -> None:
        pass


def dispatched(ray: Script, folder: Path, n_cells: int, retries: int = 2, **settings: int) -> list[Any]:
    """Why each cell has failed, as it is recorded; all are of one model."""
    arms = [SweepArm("ablate_mlp_write", layers=(layer,)) for layer in range(n_cells)]
    listed, out = cells(Grid([SweepModel("tiny")], PROMPTS, arms)), ResultFolder(folder / "out")
    out.prepare(listed)
    workers = settings.get("workers", 1)
    crew = Crew(workers, cpus=1, gpus=0, retries=retries, beside=workers)
    with SweepProgress(listed, 0, False) as progress:
        Dispatcher(ray, listed, out, crew, settings.get("shards", 1), progress).run()
    return [json.loads(out.error_path(cell).read_text())["message"] for cell in listed]


PROMPTS = [SweepPrompts("made-up", n=2)]
HERE = mcr.__version__


def failed(message: str, at: Any = "cell") -> Failed:
    return Failed(at, Failure("ValueError", message, ""))


@pytest.mark.filterwarnings("ignore:.* a worker died of it")
def test_starts_that_fail_far_apart_do_not_end_a_sweep(tmp_path: Path) -> None:
    """Two, a success whose task kills it, and two again: with two retries no third in a row."""
    died = Died("out of memory")
    ray = Script([died, died, HERE, died, died, HERE], [died, failed("first"), failed("second")])
    assert dispatched(ray, tmp_path, 2) == ["first", "second"]
    assert ray.asked.count("ready") == 6


def test_starts_that_fail_one_after_the_other_do(tmp_path: Path) -> None:
    ray = Script([Died("no GPU")] * 3, [])
    with pytest.raises(RuntimeError, match="a worker could not start: no GPU"):
        dispatched(ray, tmp_path, 2)


@pytest.mark.parametrize("second", [failed("second"), NotSent("second"), Died("second")], ids=repr)
def test_of_two_shards_that_fail_the_first_is_told(second: Any, tmp_path: Path) -> None:
    """The second ends when the cell has failed already, and another cell is still to come."""
    ray = Script(itertools.repeat(HERE), [failed("first"), second, *[failed("of the other")] * 2])
    told = dispatched(ray, tmp_path, 2, retries=0, workers=2, shards=2)
    assert told == ["first", "of the other"]
    assert all(given[-1] == Sharing(host=2) for given in ray.given)


def test_a_model_that_cannot_be_loaded_is_told_of_cells_that_wait_and_not_of_those_that_run(
    tmp_path: Path,
) -> None:
    ray = Script(itertools.repeat(HERE), [failed("no model", at="model"), failed("of its own")])
    assert dispatched(ray, tmp_path, 3, workers=2) == ["no model", "of its own", "no model"]


@pytest.mark.filterwarnings("ignore:.* a worker died of it")
def test_a_task_that_kills_every_worker_is_given_up_and_the_rest_goes_on(tmp_path: Path) -> None:
    ray = Script([HERE] * 4, [Died("killed")] * 3 + [failed("of its own")])
    first, second = dispatched(ray, tmp_path, 2)
    assert first == "3 workers died of it, the last of: killed" and second == "of its own"


def test_a_worker_that_died_at_rest_is_not_laid_to_a_task(tmp_path: Path) -> None:
    """The second has nothing to do, and is gone when there is something; no task is lost by that."""
    ray = Script([HERE, HERE, Died("killed"), HERE], [failed("first"), failed("second"), failed("third")])
    queue = "mcr_lens.sweeps.queue.TaskQueue.next"
    with pytest.MonkeyPatch.context() as patch:
        take, asked = TaskQueue.next, []

        def late(self: TaskQueue, *given: Any) -> Any:
            asked.append(given)
            return take(self, *given) if len(asked) != 2 else None  # the second worker gets nothing at first

        patch.setattr(queue, late)
        assert dispatched(ray, tmp_path, 3, workers=2, retries=0) == ["first", "second", "third"]
    # Two starts, the question whether the second lives, and the start of who takes its place.
    assert ray.asked.count("ready") == 4 and ray.asked.count("run") == 3


@pytest.mark.filterwarnings("ignore:.* a worker died of it")
@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_however_workers_are_killed_only_a_task_that_lost_three_is_given_up(
    killed: list[bool], n_cells: int, shards: int, workers: int
) -> None:
    """With the retries of a sweep that says nothing of them: no other cell is lost, and the sweep ends."""
    ends = [Died("killed") if each else failed("of its own") for each in killed]
    ray = Script(itertools.repeat(HERE), itertools.chain(ends, itertools.repeat(failed("of its own"))))
    with tempfile.TemporaryDirectory() as folder:
        told = dispatched(ray, Path(folder), n_cells, RayEngine.retries, shards=shards, workers=workers)
    given_up = [each for each in told if each == "3 workers died of it, the last of: killed"]
    assert len(given_up) + told.count("of its own") == n_cells
    assert 3 * len(given_up) <= sum(killed[: ray.asked.count("run")])
