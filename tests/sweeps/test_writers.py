"""Temporary folders: whose they are, and which of them may go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mcr_lens.sweeps import writers
from mcr_lens.sweeps.writers import remove_leftovers, temporary_folder

LEAVE = """
import os, sys
from pathlib import Path
from mcr_lens.sweeps.writers import temporary_folder
with temporary_folder(Path(sys.argv[1])) as made:
    (made / "half").write_text("x")
    if sys.argv[2] == "die":
        os.kill(os.getpid(), 9)
    print("ready", flush=True)
    sys.stdin.readline()
"""


def writer(folder: Path, *then: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LEAVE, str(folder), *then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def write_half(folder: Path) -> None:
    with temporary_folder(folder) as made:
        (made / "half").write_text("x")
        assert made.parent == folder and made.name.startswith(".")
        raise ZeroDivisionError


def test_a_temporary_folder_is_hidden_and_goes_whatever_happens(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_half(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    dead = writer(tmp_path, "die")
    assert dead.wait() == -9
    (left,) = tmp_path.iterdir()
    alive = writer(tmp_path, "wait")
    assert alive.stdout is not None
    assert alive.stdout.readline() == "ready\n"
    with temporary_folder(tmp_path) as own:
        assert remove_leftovers(tmp_path) == [left]
        assert not left.exists() and own.exists()
        assert len(list(tmp_path.iterdir())) == 2
    alive.communicate("\n")
    assert alive.returncode == 0
    assert os.listdir(tmp_path) == []


def folder_of(writer: writers._Writer, place: Path) -> Path:
    made = place / ".".join([".mcr-lens-sweep", *writer, "0"])
    made = made.with_name(made.name + ".part")
    made.mkdir()
    return made


def test_only_what_is_provably_dead_goes(tmp_path: Path) -> None:
    here = writers._this_process()
    if not here.boot:
        pytest.skip("this system does not tell one start of it from another")
    gone = {"process": "1", "started": "-5"}  # a number that was given to another process since
    dead = [here._replace(**gone), here._replace(boot="0" * 12)]
    unknown = [
        here,
        here._replace(machine="0" * 12, **gone),
        here._replace(namespace="1", **gone),
        here._replace(process="x", started="y"),
    ]
    removed = [folder_of(writer, tmp_path) for writer in dead]
    kept = [folder_of(writer, tmp_path) for writer in unknown]
    for name in (".mcr-lens-sweep.part", ".mcr-lens-sweep.1.2.part", ".tmp.nc.part", "mine.nc"):
        (tmp_path / name).write_text("x")
        kept.append(tmp_path / name)
    assert set(remove_leftovers(tmp_path)) == set(removed)
    assert set(tmp_path.iterdir()) == set(kept)


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    dead = writer(tmp_path, "die")
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # ended, and not collected yet
    assert len(remove_leftovers(tmp_path)) == 1
    dead.wait()


def test_without_proc_a_process_is_looked_for_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert writers._started(os.getpid()) == "alive"
    assert writers._started(ended.pid) == "gone"
