"""The local engine: right numbers, one model at a time, failures recorded, nothing computed twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import mcr_lens as mcr
from mcr_lens.sweeps import (
    Grid,
    ResultFolder,
    SweepArm,
    SweepModel,
    SweepPrompts,
    cells,
    read_grid,
    sweep,
    sweep_status,
)
from mcr_lens.sweeps import run as local


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file: others after any replacement."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def same(found: mcr.Profile, expected: mcr.Profile) -> None:
    xr.testing.assert_allclose(found.data, expected.data, rtol=1e-6)


MADE_UP = SweepPrompts("made-up", n=4)


def test_cells_hold_the_profiles_that_a_user_would_have_made(bundled_model: Any, tmp_path: Path) -> None:
    arms = [
        SweepArm("ablate_mlp_write", layers="emergence", dose=0.5),
        SweepArm("block_attention_to", layers="after emergence"),
        SweepArm("clamp_norm", layers=(1,), max_ratio=2.0, rest_norm="baseline"),
        SweepArm("zero_dimensions", layers="emergence", dimensions="massive"),
        SweepArm("ablate_attention_write", layers=2, positions=3),
    ]
    grid = Grid([SweepModel("tiny", batch_size=2)], [MADE_UP], arms)
    assert set(sweep(grid, tmp_path, progress=False).state) == {"done"}
    prompts = mcr.Prompts.from_texts(mcr.prompts.word_problems(4, 0), bundled_model)
    baseline, *found = (ResultFolder(tmp_path).result(cell) for cell in cells(grid))

    def profile(interventions: Any) -> mcr.Profile:
        return mcr.profile(bundled_model, prompts, interventions=interventions, batch_size=2, progress=False)

    same(baseline, profile([]))
    layers = baseline.emergence_layers()
    n_layers = bundled_model.cfg.n_layers
    rest = baseline["rest_norm"].mean("prompt").values.tolist()
    depths = [layer + 1 for layer in layers]
    at_sink = baseline["top_activation_position"].sel(depth=depths) == 0
    massive = baseline["top_activation_dimension"].sel(depth=depths).values[at_sink.values]
    expected = [
        mcr.ablate_mlp_write(layers, dose=0.5),
        mcr.block_attention_to(0, range(layers[0] + 1, n_layers)),
        mcr.clamp_norm([1], max_ratio=2.0, rest_norm=rest),
        mcr.zero_dimensions(layers, sorted(set(massive.tolist()))),
        mcr.ablate_attention_write(2, positions=3),
    ]
    for measured, interventions in zip(found, expected, strict=True):
        same(measured, profile(interventions))
    settings = found[0].data.attrs["sweep"]
    assert settings["arm"] == {"intervention": "ablate_mlp_write", "layers": "emergence", "dose": 0.5}
    assert settings["model"]["source"] == "tiny"


def test_a_model_is_loaded_once_for_its_cells_and_not_at_all_when_they_are_done(
    grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str | None] = []
    load = SweepModel.load
    monkeypatch.setattr(
        SweepModel, "load", lambda self, revision: loaded.append(revision) or load(self, revision)
    )
    grid = read_grid(grid_file)
    grid = replace(grid, models=(SweepModel("tiny", chunk=16, name="chunked"), *grid.models))
    table = sweep(grid, tmp_path / "out", progress=False)
    # The chunked and the plain one differ in how they are fed only.
    assert loaded == [None, "step0", "step20000"]
    assert table.groupby("state").size().to_dict() == {"done": 10, "failed": 2}
    before = state_of(tmp_path / "out")
    sweep(grid, tmp_path / "out", progress=False)
    assert loaded[3:] == ["step0"]  # whose failed cells are tried again
    after = state_of(tmp_path / "out")
    assert {name: after[name] for name in after if name.endswith(".nc")} == {
        name: before[name] for name in before if name.endswith(".nc")
    }
    assert set(after) == set(before)


def test_only_one_model_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled_model: Any
) -> None:
    import gc
    import weakref

    models: list[weakref.ref[Any]] = []
    alive: list[int] = []
    load = SweepModel.load

    def watched(self: SweepModel, revision: str | None) -> Any:
        alive.append(sum(model() is not None for model in models))
        model = load(self, revision)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(SweepModel, "load", watched)
    gc.collect()
    models_of_steps = [SweepModel("tiny", revisions=["step0", "step512", "step20000"])]
    # The middle one fails: what it fails of must not hold the model either.
    arms = [SweepArm(), SweepArm("ablate_mlp_write", layers=(99,))]
    sweep(Grid(models_of_steps, [MADE_UP], arms), tmp_path, progress=False)
    assert alive == [0, 0, 0]


def test_failing_cells_are_recorded_and_the_others_done(llama_folder: Path, tmp_path: Path) -> None:
    broken, out = tmp_path / "broken", tmp_path / "out"
    shutil.copytree(llama_folder, broken)
    (broken / "config.json").write_text("{")
    (tmp_path / "p.jsonl").write_text('{"question": "w1 w2 w3 w4"}\n')
    grid = Grid(
        [SweepModel(str(broken)), SweepModel("tiny")],
        [MADE_UP, SweepPrompts(str(tmp_path / "p.jsonl"), field="answer")],
        [SweepArm(), SweepArm("ablate_mlp_write", layers=(99,))],
    )
    table = sweep(grid, out, progress=False)
    assert table.state.tolist() == ["failed"] * 4 + ["done", "failed", "failed", "failed"]
    for part, row in zip(("could not be", "layer", "no field 'answer'"), (0, 5, 6), strict=True):
        assert part in table.error[row]
    record = json.loads((out / (table.file[5].removesuffix(".nc") + ".error.json")).read_text())
    assert record["error"] == "InputError"
    assert record["message"] == table.error[5].removeprefix("InputError: ")
    assert "Traceback" in record["traceback"] and "run.py" in record["traceback"]
    assert record["cell"]["arm"] == {"intervention": "ablate_mlp_write", "layers": [99]}
    assert len(list(out.iterdir())) == 8
    # Mended, the model has another name; its old records stay.
    shutil.copy(llama_folder / "config.json", broken / "config.json")
    again = sweep(grid, out, progress=False)
    assert again.state.tolist()[:2] == ["done", "failed"]
    assert len(list(out.iterdir())) == 12


def test_a_failed_cell_is_tried_again_and_its_record_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid([SweepModel("tiny")], [MADE_UP])

    def fail(*_: object) -> Any:
        raise MemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(local, "compute", fail)
        assert sweep(grid, tmp_path, progress=False).error.tolist() == ["MemoryError: no room"]
    assert sweep(grid, tmp_path, progress=False).state.tolist() == ["done"]
    assert len(list(tmp_path.iterdir())) == 1


def test_an_arm_whose_baseline_failed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = local.compute

    def fail_baselines(cell: Any, *rest: Any) -> Any:
        if cell.arm.is_baseline:
            raise RuntimeError("no")
        return compute(cell, *rest)

    monkeypatch.setattr(local, "compute", fail_baselines)
    arms = [SweepArm("ablate_mlp_write", layers="emergence"), SweepArm("ablate_mlp_write", layers=(1,))]
    table = sweep(Grid([SweepModel("tiny")], [MADE_UP], arms), tmp_path, progress=False)
    assert table.state.tolist() == ["failed", "failed", "done"]
    assert "needs its baseline, which has failed" in table.error[1]


def test_an_interrupt_stops_the_sweep_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, calls = local.compute, []

    def interrupt(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(*given)

    monkeypatch.setattr(local, "compute", interrupt)
    grid = Grid([SweepModel("tiny")], [MADE_UP], [SweepArm(), SweepArm("ablate_mlp_write", layers=(1,))])
    with pytest.raises(KeyboardInterrupt):
        sweep(grid, tmp_path, progress=False)
    assert sweep_status(grid, tmp_path).state.tolist() == ["done", "left"]
    assert len(list(tmp_path.iterdir())) == 1


def test_other_settings_in_the_same_folder_are_not_mixed(tmp_path: Path) -> None:
    grids = [Grid([SweepModel("tiny")], [replace(MADE_UP, n=n)]) for n in (2, 3)]
    for grid in grids:
        sweep(grid, tmp_path, progress=False)
    sizes = [ResultFolder(tmp_path).result(cells(grid)[0]).data.sizes["prompt"] for grid in grids]
    assert sizes == [2, 3]


def test_what_stops_a_sweep_before_it_begins(tmp_path: Path) -> None:
    grid = Grid([SweepModel("tiny")], [MADE_UP])
    with pytest.raises(mcr.InputError, match="engine 'abacus': use 'local'"):
        sweep(grid, tmp_path, engine="abacus")
    (tmp_path / "file").write_text("")
    with pytest.raises(mcr.InputError, match="not a folder"):
        sweep(grid, tmp_path / "file")
    with pytest.raises(mcr.InputError, match=r"none\.txt"):
        sweep(replace(grid, prompts=(SweepPrompts(str(tmp_path / "none.txt")),)), tmp_path / "out")


def test_a_disk_that_is_full_stops_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mcr_lens.sweeps.store.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        sweep(Grid([SweepModel("tiny")], [MADE_UP]), tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_prompts_that_change_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is saved under the name of what was there before, and the next run measures what is there."""
    path, out = tmp_path / "p.txt", tmp_path / "out"
    path.write_text("one two three\n")
    grid = Grid([SweepModel("tiny", revisions=["step0", "step512"])], [SweepPrompts(str(path))])
    load = SweepModel.load

    def load_and_write(self: SweepModel, revision: str | None) -> Any:
        if revision == "step512":
            path.write_text("four five six seven\n")
        return load(self, revision)

    with monkeypatch.context() as patched:
        patched.setattr(SweepModel, "load", load_and_write)
        table = sweep(grid, out, progress=False)
    assert table.state.tolist() == ["done", "failed"]
    assert "p.txt: changed while the sweep was running" in table.error[1]
    path.write_text("one two three\n")
    assert sweep_status(grid, out).state.tolist() == ["done", "failed"]
    assert sweep(grid, out, progress=False).state.tolist() == ["done", "done"]
    digests = [ResultFolder(out).result(cell).data.attrs["prompts"]["digest"] for cell in cells(grid)]
    assert digests[0] == digests[1]


def test_a_model_that_changes_meanwhile(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(llama_folder, tmp_path / "model"))
    grid = Grid([SweepModel(str(folder))], [SweepPrompts("made-up", n=2)])
    compute = local.compute

    def compute_and_write(*args: Any) -> mcr.Profile:
        (folder / "generation_config.json").write_text("{ }")
        return compute(*args)

    with monkeypatch.context() as patched:
        patched.setattr(local, "compute", compute_and_write)
        table = sweep(grid, tmp_path / "out", progress=False)
    assert table.state.tolist() == ["failed"]
    assert f"{folder} or prompts made-up: changed while" in table.error[0]
    assert sweep(grid, tmp_path / "out", progress=False).state.tolist() == ["done"]


def test_a_changed_data_set_is_another_one(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "train.jsonl"
    grid = Grid([SweepModel("tiny")], [SweepPrompts(f"hf:{tmp_path / 'data'}", field="q", split="train")])
    names = []
    for texts in (["one two"], ["one two", "three four five"]):
        path.write_text("".join(json.dumps({"q": text}) + "\n" for text in texts))
        names.append(cells(grid)[0].name)
    assert names[0] != names[1]


def test_results_may_be_put_where_the_data_are(tmp_path: Path) -> None:
    """What a sweep writes, and what is hidden, changes no data set."""
    (tmp_path / "data" / ".git").mkdir(parents=True)
    (tmp_path / "data" / "train.jsonl").write_text('{"q": "one two three"}\n')
    prompts = SweepPrompts(f"hf:{tmp_path / 'data'}", field="q", split="train")
    arms = [SweepArm(), SweepArm("ablate_mlp_write", layers=(99,)), SweepArm("ablate_mlp_write", layers=(1,))]
    grid, out = Grid([SweepModel("tiny")], [prompts], arms), tmp_path / "data" / "results"
    assert sweep(grid, out, progress=False).state.tolist() == ["done", "failed", "done"]
    (tmp_path / "data" / ".git" / "index").write_text("x")
    assert sweep_status(grid, out).state.tolist() == ["done", "failed", "done"]


def test_a_result_that_somebody_cut_short_is_told_with_the_way_out(tmp_path: Path) -> None:
    grid = Grid([SweepModel("tiny")], [MADE_UP], [SweepArm("clamp_norm", layers=(1,), rest_norm="baseline")])
    table = sweep(grid, tmp_path, progress=False)
    (tmp_path / table.file[0]).write_bytes((tmp_path / table.file[0]).read_bytes()[:3000])
    (tmp_path / table.file[1]).unlink()
    message = sweep(grid, tmp_path, progress=False).error[1]
    assert "damaged or cut short" in message and "delete it, and the next run computes it again" in message


def test_what_others_finish_counts_as_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid([SweepModel("tiny", revisions=["step0", "step512"])], [MADE_UP])
    (_, other), folder, bars = cells(grid), ResultFolder(tmp_path), []
    sweep(
        Grid([SweepModel("tiny", revisions=["step512"])], [MADE_UP]), tmp_path / "elsewhere", progress=False
    )
    load, bar_class = SweepModel.load, local.tqdm

    def load_while_another_process_saves(self: SweepModel, revision: str | None) -> Any:
        shutil.copy(tmp_path / "elsewhere" / folder.result_path(other).name, tmp_path)
        return load(self, revision)

    monkeypatch.setattr(SweepModel, "load", load_while_another_process_saves)
    monkeypatch.setattr(local, "tqdm", lambda **options: bars.append(bar_class(**options)) or bars[-1])
    assert sweep(grid, tmp_path, progress=False).state.tolist() == ["done", "done"]
    assert [bar.n for bar in bars] in ([2], [0])  # a bar that is not shown counts nothing


LEAVE = """
import os, sys
from mcr_lens.sweeps import Grid, ResultFolder, SweepModel, SweepPrompts, cells
(cell,) = cells(Grid([SweepModel("tiny")], [SweepPrompts("made-up", n=4)]))
folder = ResultFolder(sys.argv[1])
with folder._put(cell, folder.result_path(cell)) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", LEAVE, str(tmp_path)])
    assert killed.returncode == -9 and len(list(tmp_path.glob(".*/*.nc"))) == 1
    sweep(Grid([SweepModel("tiny")], [MADE_UP]), tmp_path, progress=False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".nc"]
