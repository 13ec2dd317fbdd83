"""Sweeps on Ray whose driver or workers are killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import descendants, is_alive, until, workers
from sweep_server import assert_kept, content, finished, killed_at_random, server

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
n = 2
"""
# By chance the same cell may lose three workers, which the default gives up as one that kills; the next run
# would take it up again (tests/sweeps/test_tasks.py kills with the default). What is tested here is that a
# sweep survives, however often.
ENGINE = "RayEngine(workers=2, shards=2, retries=20)"


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


@pytest.mark.slow
def test_the_driver_killed_ten_times_at_random_moments(grid: Path, tmp_path: Path) -> None:
    def watch(process: int) -> Callable[[], None]:
        below = [each for each in descendants(process) if each[0] in workers(process)]
        # No worker goes on alone; what Ray has beside them waits for a minute or so.
        return lambda: until(lambda: not any(map(is_alive, below)), seconds=30)

    assert killed_at_random(grid, tmp_path, kills=10, seed=3, engine=ENGINE, watch=watch)


@pytest.mark.slow
def test_workers_killed_twenty_times_at_random_moments(grid: Path, tmp_path: Path) -> None:
    rng = random.Random(4)
    killed = sweeps = 0
    with server(grid, ENGINE) as started:
        started.start(tmp_path / "whole")
        assert started.wait() == [0]
        expected = content(tmp_path / "whole")
        assert len(finished(tmp_path / "whole")) == 8
        while killed < 20:
            out = tmp_path / f"out{sweeps}"
            (process,) = started.start(out)
            known: dict[str, tuple[int, int]] = {}
            while killed < 20 and len(finished(out)) < len(expected):
                time.sleep(rng.uniform(0, 4))
                if found := workers(process):
                    os.kill(rng.choice(found), signal.SIGKILL)
                    killed += 1
                assert_kept(known, known := finished(out))
            assert started.wait() == [0]
            assert content(out) == expected
            sweeps += 1
