"""What the Ray engine refuses before anything is started, Ray installed or not."""

from __future__ import annotations

import importlib.util
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from shell import assert_refused, run

import mcr_lens as mcr
from mcr_lens.models.memory import Sharing
from mcr_lens.sweeps import Grid, RayEngine, SweepModel, SweepPrompts, sweep

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
        ({"workers": 0}, "workers = 0: use a number from 1"),
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
    with pytest.raises(
        mcr.InputError,
        match=r'several workers need ray, which is not installed: pip install "mcr-lens\[ray\]"',
    ):
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
        with pytest.raises(mcr.InputError, match="no Ray cluster answers there"):
            sweep(GRID, tmp_path, RayEngine(address=f"127.0.0.1:{taken.getsockname()[1]}"))
    for address in ("127.0.0.1:99999", "a..b:6379", f"{'x' * 70}:6379"):
        with pytest.raises(mcr.InputError, match="no Ray cluster answers there"):
            sweep(GRID, tmp_path, RayEngine(address=address))
    assert not ray.is_initialized()


def test_auto_without_a_cluster_is_refused(
    ray: Any, grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own search would find the clusters of other tests: only its answer is put in its place."""
    words = "Could not find any running Ray instance."

    def init(*_: object, **__: object) -> None:
        raise ConnectionError(words)

    monkeypatch.setattr(ray, "init", init)
    options = ("--out", tmp_path / "out", "--engine", "ray", "--address", "auto")
    refused = run("sweep", grid_file, *options)
    assert_refused(
        refused, 2, "address 'auto': no Ray cluster answers there", words, "as ray start --head prints it"
    )


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
        ({}, [{"CPU": 2.0}], (2, 0.0), Sharing(2)),
        ({"workers": 3}, [{"CPU": 8.0}], (3, 0.0), Sharing(3)),
        ({}, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], (2, 1.0), Sharing(2)),
        ({"gpus_per_worker": 0}, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], (16, 0), Sharing(8)),
        ({"gpus_per_worker": 0.25}, [{"CPU": 8.0, "GPU": 2.0}], (8, 0.25), Sharing(8, 4)),
        ({"gpus_per_worker": 0.25, "workers": 1}, [{"CPU": 8.0, "GPU": 2.0}], (1, 0.25), Sharing()),
        ({"gpus_per_worker": 2}, [{"CPU": 8.0, "GPU": 4.0}], (2, 2), Sharing(2)),
        ({"cpus_per_worker": 3}, [{"CPU": 8.0}, {"CPU": 5.0}], (3, 0.0), Sharing(2)),
        # A running cluster may grow: by one machine, where all are that there is no room for yet.
        ({"workers": 9, "address": "auto"}, [{"CPU": 2.0}], (9, 0.0), Sharing(7)),
        ({"workers": 9, "address": "auto"}, [{"CPU": 4.0}, {"CPU": 3.0}], (9, 0.0), Sharing(4)),
    ],
)
def test_as_many_workers_as_there_is_room_for(
    options: dict[str, Any],
    cluster: list[dict[str, float]],
    crew: tuple[int, float],
    sharing: Sharing,
) -> None:
    assert RayEngine(**options)._room(machines(*cluster)) == (*crew, sharing)


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
        RayEngine(**options)._room(machines({"CPU": 2.0, "GPU": 1.0}))
