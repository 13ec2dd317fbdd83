"""The Ray engine: what the local one finds, on workers that fail, die, and are interrupted."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from processes import descendants, is_alive, until, workers
from safetensors.torch import load_file, save_file
from shell import COMMAND, ENVIRONMENT, on_a_terminal

import mcr_lens as mcr
from mcr_lens.sweeps import Grid, RayEngine, ResultFolder, SweepArm, SweepModel, SweepPrompts, cells, sweep

pytest.importorskip("ray", reason='needs Ray: pip install ".[ray]"')
if not Path("/proc/self/stat").exists():
    pytest.skip("looks for processes in /proc", allow_module_level=True)

ARMS = (
    SweepArm(),
    SweepArm("ablate_mlp_write", layers="emergence", dose=0.5),
    SweepArm("ablate_mlp_write", layers=(99,)),
)
# What breaks is the fifth prompt, in the second of two shards.
TEXTS = ["w1 w2 w3 w4 w5 w6", "w2 w3", "w4 w5 w6 w7 w8", "w3 w4 w5", "w9 w2 w3 w1", "w5"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray with room for four workers, started once; sweeps use what the process is connected to."""
    import ray

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            "local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=128 * 2**20,
        )
        try:
            yield ray
        finally:
            ray.shutdown()


@pytest.fixture(scope="module")
def grid(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """The bundled model, one in which nothing is massive yet, and one that one word breaks."""
    place = tmp_path_factory.mktemp("grid")
    broken, questions = place / "broken", place / "questions.jsonl"
    shutil.copytree(llama_folder, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][word("w9", llama_folder)] = torch.inf
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    questions.write_text("".join(json.dumps({"question": text}) + "\n" for text in TEXTS))
    models = [SweepModel("tiny", batch_size=2), SweepModel("tiny", revisions=["step0"], name="young")]
    return Grid([*models, SweepModel(str(broken))], [SweepPrompts(str(questions), field="question")], ARMS)


def word(text: str, folder: Path) -> int:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"][0]


def same(found: mcr.Profile, expected: mcr.Profile) -> None:
    """Everything but float error."""
    assert found.data.attrs == expected.data.attrs
    assert list(found.data.data_vars) == list(expected.data.data_vars)
    for name, values in expected.data.data_vars.items():
        there = found.data[name]
        assert (there.dims, there.dtype) == (values.dims, values.dtype)
        np.testing.assert_allclose(there.values, values.values, rtol=1e-6, atol=1e-6, err_msg=str(name))
    xr.testing.assert_identical(found.data.coords.to_dataset(), expected.data.coords.to_dataset())


def same_folders(out: Path, expected: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in expected.iterdir())
    for path in expected.glob("*.nc"):
        same(mcr.Profile.load(out / path.name), mcr.Profile.load(path))


def test_two_workers_leave_what_one_process_leaves(cluster: Any, grid: Grid, tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="Inf or NaN") as local:
        there = sweep(grid, tmp_path / "local", progress=False)
    with pytest.warns(RuntimeWarning, match="Inf or NaN") as warned:
        table = sweep(grid, tmp_path / "ray", RayEngine(workers=2, shards=2), progress=False)
    assert cluster.is_initialized()  # it was there before
    assert table.equals(there)
    # Of the young model and the broken one the arm that asks the baseline for layers fails, too.
    assert table.state.tolist() == [
        "done",
        "done",
        "failed",
        "done",
        "failed",
        "failed",
        "done",
        "failed",
        "failed",
    ]
    same_folders(tmp_path / "ray", tmp_path / "local")
    record = json.loads((tmp_path / "ray" / f"{cells(grid)[2].name}.error.json").read_text())
    assert record["error"] == "InputError" and "layer" in record["message"]
    assert "Traceback" in record["traceback"] and "run.py" in record["traceback"]
    # Warnings say what those of the local engine say: of the same prompt, with the name of the cell.
    (note,) = {str(each.message) for each in local if "Inf or NaN" in str(each.message)}
    assert "1 of 6 prompts, first in prompt 4 " in note
    notes = {str(each.message) for each in warned if "Inf or NaN" in str(each.message)}
    assert notes == {note} and note.startswith(f"{cells(grid)[6].name}: ")


@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_shards_over_workers_are_the_single_process_profile(
    cluster: Any, bundled_model: Any, tmp_path: Path, count: int
) -> None:
    grid = Grid([SweepModel("tiny")], [SweepPrompts("library-code", n=7, max_tokens=50)])
    sweep(grid, tmp_path, RayEngine(workers=count, shards=4), progress=False)
    (cell,) = cells(grid)
    expected = mcr.profile(bundled_model, cell.prompts.load(bundled_model), progress=False)
    expected.data.attrs["sweep"] = cell.settings()
    same(ResultFolder(tmp_path).result(cell), expected)


def test_a_worker_that_is_killed_is_replaced_and_a_cell_that_kills_is_given_up(
    cluster: Any, bundled_model: Any, tmp_path: Path
) -> None:
    arms = [SweepArm(), SweepArm("ablate_mlp_write", layers=(1,)), SweepArm("ablate_mlp_write", layers=(2,))]
    grid = Grid([SweepModel("tiny")], [SweepPrompts("made-up", n=32)], arms)
    folder, killed = ResultFolder(tmp_path), []

    def kill() -> None:
        # The group of all, then the first cell alone, twice: which is once too often.
        for _ in range(3):
            until(lambda: [each for each in workers(os.getpid()) if each not in killed])
            killed.extend(each for each in workers(os.getpid()) if each not in killed)
            os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.warns(RuntimeWarning, match="a worker died of it, another tries again"):
        table = sweep(grid, tmp_path, RayEngine(workers=1, retries=1), progress=False)
    killer.join()
    assert table.state.tolist() == ["failed", "done", "done"]
    assert table.error[0].startswith("WorkerDied: 2 workers died of it")
    expected = mcr.profile(
        bundled_model,
        mcr.Prompts.from_texts(mcr.prompts.word_problems(32, 0), bundled_model),
        interventions=mcr.ablate_mlp_write([1]),
        progress=False,
    )
    xr.testing.assert_allclose(folder.result(cells(grid)[1]).data, expected.data, rtol=1e-6, atol=1e-6)
    # It is tried again by the next run.
    assert set(sweep(grid, tmp_path, RayEngine(workers=1), progress=False).state) == {"done"}
    assert len(list(tmp_path.iterdir())) == 3


def test_what_the_cluster_has_no_room_for_is_refused(cluster: Any, tmp_path: Path) -> None:
    grid = Grid([SweepModel("tiny")], [SweepPrompts("made-up", n=2)])
    for engine, words in (
        (RayEngine(workers=5), "5 workers of 1 cores and 0 GPUs: there are 4 cores .* room for 4"),
        (RayEngine(gpus_per_worker=64), "room for 0"),
        (RayEngine(cpus_per_worker=5), "room for 0"),
        (RayEngine(address="auto"), "connected to Ray already"),
    ):
        with pytest.raises(mcr.InputError, match=words):
            sweep(grid, tmp_path, engine, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_interrupted_it_ends_its_cluster_and_the_same_command_goes_on(
    number: int, code: int, tmp_path: Path
) -> None:
    path, out = tmp_path / "grid.toml", tmp_path / "out"
    path.write_text(
        'arms = ["baseline", {intervention = "ablate_mlp_write", layers = "emergence"}]\n'
        '[[models]]\nsource = "tiny"\n[[prompts]]\nsource = "made-up"\nn = 8\n'
    )
    command = [*COMMAND, "sweep", str(path), "--out", str(out), "--engine", "ray", "--workers", "1"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    until(lambda: workers(process.pid))
    below = descendants(process.pid)
    assert any("raylet" in Path(f"/proc/{number}/cmdline").read_text() for number, _ in below)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert told.startswith("mcr-lens: interrupted, 2 cells: ") and told.count("\n") == 1
    until(lambda: not any(map(is_alive, below)), seconds=10)
    assert not list(Path("/tmp").glob(f"mcr-lens-ray-*/session_*_{process.pid}"))
    code, shown = on_a_terminal(*command[len(COMMAND) :])
    assert code == 0
    assert "2 cells: 2 done" in shown
    assert not list(out.glob(".*"))
    # The bar to its end, and nothing of Ray's own between them.
    assert "sweep: " in shown and "2/2" in shown and "ray" not in shown.lower()


@pytest.mark.slow
def test_a_cluster_that_is_running_is_used_and_left_running(cluster: Any, grid: Grid, tmp_path: Path) -> None:
    path, out = tmp_path / "grid.toml", tmp_path / "out"
    path.write_text('[[models]]\nsource = "tiny"\n[[prompts]]\nsource = "made-up"\nn = 200\n')
    address = cluster.get_runtime_context().gcs_address
    command = [*COMMAND, "sweep", str(path), "--out", str(out), "--engine", "ray", "--address", address]
    # An address alone is not shown the token that Ray gave the cluster.
    environment = {**ENVIRONMENT, "RAY_AUTH_MODE": "token"}
    before = descendants(os.getpid())
    process = subprocess.Popen(
        [*command, "--workers", "2"], env=environment, stderr=subprocess.PIPE, text=True
    )
    # The cluster is this process's: so are its workers.
    until(lambda: workers(os.getpid()))
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told.count("\n")) == (130, 1)
    until(lambda: not workers(os.getpid()), seconds=30)
    done = subprocess.run([*command, "--n", "4"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 cells: 1 done" in done.stdout
    assert cluster.cluster_resources()["CPU"] == 4
    assert any(map(is_alive, before))


@pytest.mark.slow
def test_the_script_for_slurm_runs_with_one_machine_in_place_of_a_job(tmp_path: Path) -> None:
    programs, path, out = tmp_path / "programs", tmp_path / "grid.toml", tmp_path / "out"
    programs.mkdir()
    stand_ins = {
        "srun": 'while [[ ${1:-} == --* ]]; do shift; done\nexec "$@"',
        "scontrol": 'echo "$SLURM_JOB_NODELIST"',
        "mcr-lens": f'exec {sys.executable} -c "{COMMAND[-1]}" "$@"',
        "ray": f'exec {Path(sys.executable).parent / "ray"} "$@"',
    }
    for name, script in stand_ins.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    path.write_text('[[models]]\nsource = "tiny"\n[[prompts]]\nsource = "made-up"\nn = 2\n')
    job = {"NODELIST": "here", "NUM_NODES": "1", "ID": str(os.getpid())}
    environment = {
        **ENVIRONMENT,
        **{f"SLURM_JOB_{name}": value for name, value in job.items()},
        "SLURM_CPUS_PER_TASK": "1",
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),  # where the token goes
    }
    script = Path(__file__).parents[2] / "docs" / "how-to" / "sweep_ray.sbatch"
    process = subprocess.Popen(
        ["bash", str(script), str(path), str(out)], env=environment, stdout=subprocess.PIPE, text=True
    )
    until(lambda: workers(process.pid) or process.poll() is not None)
    below = descendants(process.pid)
    told, _ = process.communicate(timeout=180)
    assert process.returncode == 0 and "1 cells: 1 done" in told
    until(lambda: not any(map(is_alive, below)), seconds=60)
