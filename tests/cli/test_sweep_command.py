"""``mcr-lens sweep``: what it prints, its exit codes, and the grid's models and prompts exchanged."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shell import ENVIRONMENT, assert_refused, on_a_terminal, run

import mcr_lens as mcr
from mcr_lens import sweeps

GRID = """
arms = ["baseline", {intervention = "ablate_mlp_write", layers = [1]}]
[[models]]
source = "EleutherAI/pythia-410m"
[[prompts]]
source = "hf:openai/gsm8k"
config = "main"
split = "test"
field = "question"
n = 64
max_tokens = 24
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Of a model and prompts that need a network."""
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


def test_a_grid_of_the_hub_is_tried_on_the_bundled_model(
    grid: Path, questions: Path, bundled_model: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = ("sweep", grid, "--out", out, "--model", "tiny", "--prompts", questions, "--n", 3)
    listed = run(*given, "--dry-run")
    assert listed.exit_code == 0, listed.output
    assert listed.stdout.count("left ") == 2 and "2 cells: 2 left" in listed.stdout
    assert not out.exists()
    result = run(*given)
    assert result.exit_code == 0, result.output
    assert "2 cells: 2 done; saved in" in result.stdout
    # The dry run has told their names.
    assert len(list(out.iterdir())) == 2
    assert all(path.name in listed.stdout for path in out.iterdir())
    prompts = mcr.load_prompts(questions, bundled_model, field="question", n=3, max_tokens=24)
    (baseline,) = out.glob("*--baseline--*")
    assert mcr.Profile.load(baseline).data.attrs["prompts"]["digest"] == prompts.digest
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert run(*given).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    status = run(*given, "--status")
    assert status.exit_code == 0
    assert re.search(r"done +tiny +questions +ablate_mlp_write layers=1\n", status.stdout)
    assert status.stdout.endswith("2 cells: 2 done\n")


def test_failed_cells_give_exit_code_1_and_the_others_are_done(grid: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    grid.write_text(GRID.replace("[1]", "[99]"))
    given = ("sweep", grid, "--out", out, "--model", "tiny", "--prompts", "made-up", "--n", 2)
    result = run(*given)
    assert_refused(result, 1, "1 of 2 cells failed", "InputError", ".error.json")
    assert "2 cells: 1 done, 1 failed" in result.stdout
    (record,) = out.glob("*.error.json")
    assert str(record) in result.stderr
    status = run(*given, "--status")
    assert status.exit_code == 0
    assert "failed" in status.stdout and "layer" in status.stdout


def test_several_models_and_revisions_and_the_bundled_code(grid: Path, tmp_path: Path) -> None:
    models = ("--model", "tiny@step0", "--model", "tiny@step512")
    listed = run("sweep", grid, "--out", tmp_path / "out", *models, "--prompts", "library-code", "--status")
    assert listed.exit_code == 0, listed.output
    for revision in ("step0", "step512"):
        assert re.search(rf"left +tiny +{revision} +library-code +baseline\n", listed.stdout)


def test_bad_input_is_refused(grid: Path, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_refused(run("sweep", tmp_path / "none.toml", "--out", out), 2, "none.toml", "cannot be read")
    missing = run("sweep", grid, "--out", out, "--model", "tiny", "--prompts", tmp_path / "none.jsonl")
    assert_refused(missing, 2, "none.jsonl")
    assert_refused(run("sweep", grid, "--out", out, "--n", 0), 2, "n = 0")
    tiny = ("--model", "tiny", "--prompts", questions)
    assert_refused(run("sweep", grid, "--out", grid, *tiny), 2, "not a folder")
    grid.write_text("x = 1")
    assert_refused(run("sweep", grid, "--out", out), 2, "grid.toml: ", "unknown key 'x'")
    assert run("sweep", grid).exit_code == 2
    assert not out.exists()


def test_code_of_models_that_are_replaced_need_not_be_allowed(grid: Path, tmp_path: Path) -> None:
    model = "[[models]]\nsource = 'x/y'\noptions = {trust_remote_code = true}\n"
    grid.write_text(model + "[[prompts]]\nsource = 'made-up'\nn = 2\n")
    given = ("sweep", grid, "--out", tmp_path / "out", "--dry-run")
    assert_refused(run(*given), 2, "a file alone cannot ask", "--trust-remote-code")
    result = run(*given, "--model", "tiny")
    assert result.exit_code == 0 and "x/y" not in result.stdout and "tiny" in result.stdout


def test_options_of_ray_are_refused_without_it_and_when_they_cannot_be(grid: Path, tmp_path: Path) -> None:
    given = ("sweep", grid, "--out", tmp_path / "out", "--model", "tiny", "--prompts", "made-up")
    words = ("--workers, --gpus-per-worker: for --engine ray only; the engine is local",)
    assert_refused(run(*given, "--workers", 2, "--gpus-per-worker", 0), 2, *words)
    for only_told in ((), ("--status",), ("--dry-run",)):
        refused = run(*given, "--engine", "abacus", *only_told)
        assert_refused(refused, 2, "engine 'abacus': use 'local' or 'ray'")
    pytest.importorskip("ray", reason='needs Ray: pip install ".[ray]"')
    assert_refused(run(*given, "--engine", "ray", "--shards", 0), 2, "shards = 0")
    assert_refused(run(*given, "--engine", "ray", "--address", "nonsense"), 2, "use HOST:PORT")
    assert run(*given, "--engine", "ray", "--workers", "many").exit_code == 2
    assert not list(tmp_path.glob("out/*"))


def test_an_interrupt_says_how_far_the_sweep_is(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "sweep", interrupt)
    result = run("sweep", grid, "--out", tmp_path / "out", "--model", "tiny", "--prompts", "made-up")
    assert_refused(result, 130, "interrupted, 2 cells: 2 left", "the same command goes on")


def test_progress_is_shown_over_cells_and_prompts(grid: Path, tmp_path: Path) -> None:
    options = ("--model", "tiny", "--prompts", "made-up", "--n", 4)
    code, shown = on_a_terminal("sweep", grid, "--out", tmp_path / "out", *options)
    assert code == 0
    assert "sweep: " in shown and "2/2" in shown and "cell" in shown
    assert "measure: " in shown and "4/4" in shown


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mcr_lens.cli import app\nsys.argv = ['mcr-lens', 'sweep', '--help']\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'pandas', 'ray', 'mcr_lens.sweeps') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout.endswith("[]\n")
    assert all(f"--{name}" in done.stdout for name in ("out", "model", "prompts", "status", "engine"))
