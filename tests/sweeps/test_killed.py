"""Sweeps that are killed, and sweeps of which two run at once, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_server import ENVIRONMENT, assert_kept, content, finished, killed_at_random, server

from mcr_lens.sweeps import read_grid, sweep, sweep_status

# Kills itself at the second file that it writes, at a moment that it is told.
SUICIDE = """
import os, sys
import mcr_lens as mcr
from mcr_lens.sweeps import ResultFolder, read_grid, sweep

def die(function, first):
    calls = []
    def wrapped(*given, **options):
        calls.append(given)
        if len(calls) == 2 and first:
            os.kill(os.getpid(), 9)
        result = function(*given, **options)
        if len(calls) == 2:
            os.kill(os.getpid(), 9)
        return result
    return wrapped

where = sys.argv[3]
if where == "written, not complete":
    os.fsync = die(os.fsync, first=True)  # what ends the writing of a file
elif where == "before it is put in its place":
    mcr.Profile.save = die(mcr.Profile.save, first=False)
else:
    ResultFolder.save = die(ResultFolder.save, first=False)
sweep(read_grid(sys.argv[1]), sys.argv[2], progress=False)
"""
# One model, four cells.
SMALL = """
arms = ["baseline", {intervention = "ablate_mlp_write", layers = "emergence", dose = [0.25, 0.5, 1]}]
[[models]]
source = "tiny"
[[prompts]]
source = "made-up"
n = 2
"""


def test_killed_at_random_moments_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(SMALL)
    # So few may all fall before the first result or after the last.
    killed_at_random(path, tmp_path, kills=3, seed=1)


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments(grid_file: Path, tmp_path: Path) -> None:
    assert killed_at_random(grid_file, tmp_path, kills=20, seed=2)


@pytest.mark.parametrize(
    ("where", "complete"),
    [("written, not complete", 1), ("before it is put in its place", 1), ("afterwards", 2)],
)
def test_killed_at_the_worst_moments(where: str, complete: int, tmp_path: Path) -> None:
    path, out, whole = tmp_path / "grid.toml", tmp_path / "out", tmp_path / "whole"
    path.write_text(SMALL)
    command = [sys.executable, "-c", SUICIDE, str(path), str(out), where]
    assert subprocess.run(command, env=ENVIRONMENT).returncode == -signal.SIGKILL
    before = finished(out)
    assert len(before) == complete
    assert any(path.name.startswith(".") for path in out.iterdir()) == (where != "afterwards")
    grid = read_grid(path)
    sweep(grid, out, progress=False)
    assert_kept(before, finished(out))
    sweep(grid, whole, progress=False)
    assert content(out) == content(whole)
    assert set(sweep_status(grid, out).state) == {"done"}


def test_two_drivers_in_one_folder_damage_nothing(grid_file: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    with server(grid_file) as started:
        started.start(out, out)
        assert started.wait() == [0, 0]
        started.start(whole)
        assert started.wait() == [0]
    assert content(out) == content(whole)
