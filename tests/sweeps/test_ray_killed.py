"""Sweeps on Ray whose driver or workers are killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from processes import descendants, is_alive, until, workers
from sweep_server import Server, assert_kept, content, finished, server

pytest.importorskip("ray", reason='needs Ray: pip install ".[ray]"')
if not Path("/proc/self/stat").exists():
    pytest.skip("looks for processes in /proc", allow_module_level=True)

# Two models, eight cells, of which four wait for a baseline.
GRID = """
arms = [
    "baseline",
    {intervention = "ablate_mlp_write", layers = "emergence", dose = [0.5, 1]},
    {intervention = "ablate_mlp_write", layers = [2]},
]
[[models]]
source = "tiny"
revisions = ["step4096", "step20000"]
[[prompts]]
source = "made-up"
n = 8
"""
# A task is given to others as often as it takes: a cell that kills is not what is tested here.
ENGINE = "RayEngine(workers=2, shards=2, retries=20)"
KILLS = 10


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


def uninterrupted(started: Server, folder: Path) -> tuple[dict[str, bytes], float]:
    """What is in the folder then, and how long it took."""
    began = time.monotonic()
    started.start(folder)
    assert started.wait() == [0]
    assert len(finished(folder)) == 8
    return content(folder), time.monotonic() - began


@pytest.mark.slow
def test_the_driver_killed_ten_times_at_random_moments(grid: Path, tmp_path: Path) -> None:
    rng = random.Random(3)
    died = halfway = sweeps = 0
    out = tmp_path / "out0"
    with server(grid, ENGINE) as started:
        expected, seconds = uninterrupted(started, tmp_path / "whole")
        while died < KILLS:
            before = finished(out)
            (process,) = started.start(out)
            time.sleep(rng.uniform(0, seconds))
            below = [each for each in descendants(process) if each[0] in workers(process, "Worker")]
            os.kill(process, signal.SIGKILL)
            died += started.wait() == [-signal.SIGKILL]
            after = finished(out)
            assert_kept(before, after)
            halfway += 0 < len(after) < len(expected)
            # Every result that is there is whole and right, before the sweep goes on.
            assert all(expected[name] == (out / name).read_bytes() for name in after)
            # No worker goes on alone; what Ray has beside them waits for a minute or so.
            until(lambda below=below: not any(map(is_alive, below)), seconds=30)
            if len(after) == len(expected) or died == KILLS:
                started.start(out)
                assert started.wait() == [0]
                assert_kept(after, finished(out))
                assert content(out) == expected
                sweeps += 1
                out = tmp_path / f"out{sweeps}"
    assert halfway


@pytest.mark.slow
def test_workers_killed_ten_times_at_random_moments(grid: Path, tmp_path: Path) -> None:
    rng = random.Random(4)
    killed = sweeps = 0
    with server(grid, ENGINE) as started:
        expected, _ = uninterrupted(started, tmp_path / "whole")
        while killed < KILLS:
            out = tmp_path / f"out{sweeps}"
            (process,) = started.start(out)
            known: dict[str, tuple[int, int]] = {}
            while killed < KILLS and len(finished(out)) < len(expected):
                time.sleep(rng.uniform(0, 4))
                if found := workers(process, "Worker"):
                    os.kill(rng.choice(found), signal.SIGKILL)
                    killed += 1
                assert_kept(known, known := finished(out))
            assert started.wait() == [0]
            assert content(out) == expected
            sweeps += 1
