"""What the Ray engine refuses before anything is started, Ray installed or not."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from shell import ENVIRONMENT, assert_refused, run

import mcr_lens as mcr
from mcr_lens.models.memory import Sharing
from mcr_lens.sweeps import Grid, RayEngine, SweepModel, SweepPrompts, cluster, sweep
from mcr_lens.sweeps.writers import temporary_folder

GRID = Grid([SweepModel("tiny")], [SweepPrompts("made-up", n=2)])


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused with and without Ray."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "ray" else find(name))


@pytest.fixture
def ray() -> Any:
    return pytest.importorskip("ray", reason='needs Ray: pip install ".[ray]"')


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": 0}, "workers = 0: use a whole number from 1"),
        ({"workers": 1.5}, "workers = 1.5"),
        ({"cpus_per_worker": 0}, "cpus_per_worker = 0"),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker = 1.5: use a whole number, or one from 0 to 1"),
        ({"gpus_per_worker": -1}, "gpus_per_worker = -1"),
        ({"gpus_per_worker": float("nan")}, "gpus_per_worker = nan"),
        ({"shards": 0}, "shards = 0"),
        ({"retries": -1}, "retries = -1"),
        ({"address": 6379}, "address = 6379"),
    ],
)
def test_numbers_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(mcr.InputError) as error:
        RayEngine(**options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_without_ray_one_line_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(mcr.InputError, match=r'needs Ray: pip install "\.\[ray\]"'):
        sweep(GRID, tmp_path / "out", "ray")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["nonsense", "ray://127.0.0.1:10001", ":6379", "localhost:port", ""])
def test_what_is_no_address_is_refused(ray: Any, address: str, tmp_path: Path) -> None:
    with pytest.raises(mcr.InputError, match="use HOST:PORT"):
        sweep(GRID, tmp_path, RayEngine(address=address))
    assert not ray.is_initialized()


def test_an_address_where_nothing_answers_is_refused_at_once(ray: Any, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(mcr.InputError, match="nothing answers there"):
            sweep(GRID, tmp_path, RayEngine(address=f"127.0.0.1:{taken.getsockname()[1]}"))
    for address in ("127.0.0.1:99999", "a..b:6379", f"{'x' * 70}:6379"):
        with pytest.raises(mcr.InputError, match="nothing answers there"):
            sweep(GRID, tmp_path, RayEngine(address=address))
    assert not ray.is_initialized()


@pytest.mark.parametrize("by_name", [False, True])
def test_a_place_where_something_else_answers_is_refused_in_seconds(
    ray: Any, by_name: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under ``auto`` it is what a cluster that has ended, or the environment, says."""
    monkeypatch.setattr(cluster, "_SECONDS_TO_CONNECT", 6)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        if not by_name:
            monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(mcr.InputError, match="no Ray cluster answers within 6 s"):
            sweep(GRID, tmp_path, RayEngine(address=address if by_name else "auto"))
    assert not ray.is_initialized()
    assert list(tmp_path.iterdir()) == []


def test_auto_without_a_cluster_is_refused(
    ray: Any, grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own search would find the clusters of other tests: only its answer is put in its place."""
    words = "ConnectionError: Could not find any running Ray instance."
    monkeypatch.setattr(cluster, "_CONNECT", f"import sys; sys.exit('a list of calls\\n{words}')")
    options = ("--out", tmp_path / "out", "--engine", "ray", "--address", "auto")
    refused = run("sweep", grid_file, *options)
    assert_refused(refused, 2, "address 'auto': no Ray cluster there", words, "start one with ray start")


def test_a_file_named_as_ray_in_the_folder_is_not_run(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray.py").write_text("raise SystemExit('the file was run')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "_CONNECT", "import sys, ray; sys.exit('Ray itself')")
    with pytest.raises(mcr.InputError, match="Ray itself"):
        sweep(GRID, tmp_path / "out", RayEngine(address="auto"))


def test_a_killed_sweeps_folder_goes_though_nothing_is_left_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_place", lambda: tmp_path)
    left, alive = tmp_path / "mcr-lens-ray-left", tmp_path / "mcr-lens-ray-alive"
    nameless, new = tmp_path / "mcr-lens-ray-nameless", tmp_path / "mcr-lens-ray-new"
    for folder in (left, alive, nameless, new):
        folder.mkdir()
    os.utime(nameless, (1, 1))  # killed before it had a name, or when that was gone already
    with temporary_folder(alive):
        dead = subprocess.run(
            [sys.executable, "-c", LEAVES_A_FOLDER, str(left)],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        assert dead.returncode == -signal.SIGKILL, dead.stderr
        sweep(GRID, tmp_path / "out", progress=False)
        assert sweep(GRID, tmp_path / "out", "ray", progress=False).state.tolist() == ["done"]
        assert not left.exists() and not nameless.exists()
        assert alive.exists() and new.exists()


LEAVES_A_FOLDER = """
import os, sys
from pathlib import Path
from mcr_lens.sweeps.writers import temporary_folder
with temporary_folder(Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""


def test_ray_is_imported_only_when_there_is_something_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [module for name, module in sys.modules.items() if name.startswith("mcr_lens.sweeps.")]
    assert not any(hasattr(module, "ray") for module in modules)
    monkeypatch.setitem(sys.modules, "ray", None)  # an import would fail
    sweep(GRID, tmp_path, progress=False)
    assert sweep(GRID, tmp_path, "ray", progress=False).state.tolist() == ["done"]


def machines(*resources: dict[str, float]) -> Any:
    """A cluster, as far as its sizes go."""
    names = {name for each in resources for name in each}
    total = {name: sum(each.get(name, 0) for each in resources) for name in names}
    nodes = [{"Alive": True, "Resources": each} for each in resources]
    gone = {"Alive": False, "Resources": {"CPU": 99.0}}
    return SimpleNamespace(nodes=lambda: [*nodes, gone], cluster_resources=lambda: total)


@pytest.mark.parametrize(
    ("options", "cluster", "crew", "sharing"),
    [
        ({}, [{"CPU": 2.0}], (2, 1, 0.0), Sharing(2)),
        ({"workers": 3}, [{"CPU": 8.0}], (3, 1, 0.0), Sharing(3)),
        ({}, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], (2, 1, 1.0), Sharing(2)),
        ({"gpus_per_worker": 0}, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], (16, 1, 0), Sharing(8)),
        ({"gpus_per_worker": 0.25}, [{"CPU": 8.0, "GPU": 2.0}], (8, 1, 0.25), Sharing(8, 4)),
        ({"gpus_per_worker": 0.25, "workers": 1}, [{"CPU": 8.0, "GPU": 2.0}], (1, 1, 0.25), Sharing()),
        ({"gpus_per_worker": 2}, [{"CPU": 8.0, "GPU": 4.0}], (2, 1, 2), Sharing(2)),
        ({"cpus_per_worker": 3}, [{"CPU": 8.0}, {"CPU": 5.0}], (3, 3, 0.0), Sharing(2)),
        # A running cluster may grow: by one machine, where all are that there is no room for yet.
        ({"workers": 9, "address": "auto"}, [{"CPU": 2.0}], (9, 1, 0.0), Sharing(7)),
        ({"workers": 9, "address": "auto"}, [{"CPU": 4.0}, {"CPU": 3.0}], (9, 1, 0.0), Sharing(4)),
    ],
)
def test_as_many_workers_as_there_is_room_for(
    options: dict[str, Any],
    cluster: list[dict[str, float]],
    crew: tuple[int, int, float],
    sharing: Sharing,
) -> None:
    found = RayEngine(**options)._crew(machines(*cluster))
    assert (found.workers, found.cpus, found.gpus) == crew
    assert found.sharing == sharing


@pytest.mark.parametrize(
    ("options", "room"),
    [
        ({"workers": 3}, 1),
        ({"cpus_per_worker": 3}, 0),
        ({"gpus_per_worker": 2, "address": "auto"}, 0),
    ],
)
def test_more_than_there_is_room_for_is_refused(options: dict[str, Any], room: int) -> None:
    with pytest.raises(mcr.InputError, match=f"there are 2 cores and 1 GPUs, room for {room}; use fewer"):
        RayEngine(**options)._crew(machines({"CPU": 2.0, "GPU": 1.0}))
