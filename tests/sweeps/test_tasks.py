"""What the Ray engine does with tasks that end, and with workers that die: with a cluster of a script."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcr_lens.models import memory
from mcr_lens.models.memory import Sharing
from mcr_lens.sweeps import Cell, Grid, RayEngine, ResultFolder, SweepArm, SweepModel, SweepPrompts, cells
from mcr_lens.sweeps.ray_engine import run_cells
from mcr_lens.sweeps.run import groups

pytest.importorskip("ray", reason='needs Ray: pip install ".[ray]"')


class Died(Exception):
    """What Ray raises of a task whose worker is gone."""


class Raised(Died):
    """What Ray raises of a task that raised."""


class Call:
    """A task that was given out."""

    def __init__(self, group: Sequence[Cell]) -> None:
        self.group = group


class Script:
    """In place of the module ``ray``: tasks end as they are told, in order; else their cells fail."""

    exceptions = SimpleNamespace(RayError=Died, RayTaskError=Raised)

    def __init__(self, store: ResultFolder, ends: Iterable[Exception | None]) -> None:
        self._store, self._ends = store, iter(ends)
        self.groups: list[list[str]] = []
        self.cancelled = 0

    def task(self, group: Sequence[Cell]) -> Call:
        self.groups.append([cell.arm.label for cell in group])
        return Call(group)

    def wait(self, calls: list[Call], timeout: float) -> tuple[list[Call], list[Call]]:
        return calls[:1], calls[1:]

    def get(self, call: Call) -> list[Any]:
        end = next(self._ends, None)
        if end is NOTHING:
            return []
        if end is not None:
            raise end
        for cell in call.group:
            self._store.record(cell, ValueError("of its own"))
        return []

    def cancel(self, call: Call, force: bool) -> None:
        self.cancelled += 1


def driven(
    folder: Path,
    arms: Sequence[SweepArm],
    ends: Iterable[Exception | None],
    workers: int = 1,
    shards: int = 1,
    retries: int = RayEngine.retries,
) -> tuple[list[str], Script]:
    """What every cell has failed of; all are of one model."""
    listed = cells(Grid([SweepModel("tiny")], [SweepPrompts("made-up", n=2)], arms))
    store = ResultFolder(folder / "out")
    store.prepare(listed)
    ray = Script(store, ends)
    parts = [part for cell in listed for part in cell.shards(shards)]
    for _ in RayEngine(retries=retries)._tasks(ray, ray.task, groups(parts, workers), workers, store):
        pass
    return [(store.error(cell) or {"message": "none"})["message"] for cell in listed], ray


DIED = Died("killed")
# The end of a task that leaves no file here: it wrote elsewhere.
NOTHING = Exception()
ARMS = [SweepArm("ablate_mlp_write", layers=(layer,)) for layer in range(3)]
LABELS = [arm.label for arm in ARMS]


@pytest.mark.filterwarnings("ignore:.* a worker died of it")
def test_after_a_death_the_rest_of_a_group_goes_on_cell_by_cell(tmp_path: Path) -> None:
    """The first kills whoever computes it."""
    messages, ray = driven(tmp_path, ARMS, [DIED, DIED, DIED], retries=1)
    assert messages == ["2 workers died of it, the last of: killed", "of its own", "of its own"]
    assert ray.groups == [LABELS, *([label] for label in [LABELS[0], *LABELS])]


@pytest.mark.parametrize(("shards", "words"), [(1, "no result came to"), (2, "a shard is missing")])
def test_what_was_written_on_another_disk_has_failed(shards: int, words: str, tmp_path: Path) -> None:
    messages, _ = driven(tmp_path, ARMS[:1], [NOTHING] * 2, shards=shards)
    assert words in messages[0]


def test_a_group_waits_for_the_baseline_that_it_needs(tmp_path: Path) -> None:
    """Two workers, and the second has nothing to do at first."""
    arms = [SweepArm(), *(SweepArm("ablate_mlp_write", layers="emergence", dose=dose) for dose in (0.5, 1.0))]
    messages, ray = driven(tmp_path, arms, [], workers=3)
    assert messages == ["of its own"] * 3
    assert ray.groups == [[arm.label] for arm in arms]


def test_what_a_task_raises_ends_the_sweep_and_the_other_tasks(tmp_path: Path) -> None:
    """No cell's failure is raised: the disk is full, for one."""
    with pytest.raises(Raised, match="no space"):
        driven(tmp_path, ARMS, [Raised("no space")], workers=3)
    ray = Script(ResultFolder(tmp_path), [])
    listed = cells(Grid([SweepModel("tiny")], [SweepPrompts("made-up", n=2)], ARMS))
    looks = RayEngine()._tasks(ray, ray.task, [[cell] for cell in listed], 3, ResultFolder(tmp_path))
    next(looks)
    looks.close()
    assert ray.cancelled == 2


@pytest.mark.filterwarnings("ignore:.* a worker died of it")
@given(st.lists(st.booleans(), max_size=30), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_however_workers_are_killed_only_a_cell_that_lost_three_is_given_up(
    killed: list[bool], n_cells: int, shards: int, workers: int
) -> None:
    """With the retries of a sweep that says nothing of them: no other cell is lost, and the sweep ends."""
    ends = [DIED if each else None for each in killed]
    with tempfile.TemporaryDirectory() as folder:
        messages, ray = driven(Path(folder), ARMS[:n_cells], ends, workers, shards)
    given_up = [each for each in messages if each == "3 workers died of it, the last of: killed"]
    assert len(given_up) + messages.count("of its own") == n_cells
    assert 3 * len(given_up) <= sum(killed[: len(ray.groups)])


def test_a_task_counts_with_its_part_of_the_memory_and_hands_warnings_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sharing] = []

    def chunk(*_: Any) -> None:
        asked.append(memory._SHARING.get())
        warnings.warn("slow", RuntimeWarning, stacklevel=1)

    monkeypatch.setattr("mcr_lens.models.memory.auto_chunk", chunk)
    grid = Grid([SweepModel("tiny", chunk="auto")], [SweepPrompts("made-up", n=2)])
    (cell,), store = cells(grid), ResultFolder(tmp_path)
    store.prepare([cell])
    threads = torch.get_num_threads()
    told = run_cells(store, str(Path.cwd()), threads, Sharing(4, 2), [cell])
    assert asked == [Sharing(4, 2)] and memory._SHARING.get() == Sharing()
    assert (RuntimeWarning, f"{cell.name}: slow") in told
