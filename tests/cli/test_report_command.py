"""``mcr-lens report``: a page from saved files, one line for what is no result; ``demo`` ends with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from profiles import made_profile
from shell import assert_refused, run

import mcr_lens as mcr
from mcr_lens.results import save_dataset


def valley(**attributes: Any) -> mcr.Profile:
    scores = np.random.default_rng(0).uniform(size=(9, 4, 4))
    return made_profile(
        [1, 1, 200, 210, 3], [0.9, 0.9, 0.2, 0.1, 0.8], sink_score=scores, n_prompts=9, **attributes
    )


def test_a_report_of_saved_runs(tmp_path: Path) -> None:
    first = valley(model="one").save(tmp_path / "one.nc")
    second = valley(model="two").save(tmp_path / "two.nc")
    out = tmp_path / "new" / "report.html"
    result = run("report", first, second, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"report: {out} (" in result.stdout
    page = out.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "2 profiles" in page
    assert run("report", first, "--out", out).exit_code == 0  # again: a report gives way to the next


def test_a_model_and_a_prompt_for_the_example(llama_folder: Path, tmp_path: Path) -> None:
    saved = valley().save(tmp_path / "run.nc")
    out = tmp_path / "report.html"
    result = run("report", saved, "--out", out, "--model", llama_folder, "--prompt", "w1 w2 w3 w4")
    assert result.exit_code == 0, result.output
    assert "the prompt that was given" in out.read_text(encoding="utf-8")


def test_what_cannot_be_used_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    saved = valley().save(tmp_path / "run.nc")
    out = tmp_path / "report.html"
    (tmp_path / "text.nc").write_text("no result")
    assert_refused(run("report", tmp_path / "none.nc", "--out", out), 2, "does not exist")
    assert_refused(run("report", tmp_path / "text.nc", "--out", out), 2, "text.nc", "not a result")
    assert_refused(run("report", saved, "--out", tmp_path), 2, "cannot be written")
    assert_refused(run("report", saved, "--out", saved, "--overwrite"), 2, "name of a result", "run.html")
    (tmp_path / "own.html").write_text("somebody's own")
    foreign = run("report", saved, "--out", tmp_path / "own.html")
    assert_refused(foreign, 2, "no report of mcr-lens", "--overwrite")
    model = ["--model", tmp_path / "nowhere"]
    assert_refused(run("report", saved, "--out", out, *model), 2, "not a folder")
    assert not out.exists()
    own = tmp_path / "own.html"
    own.write_text("mine")
    assert run("report", saved, "--out", own, "--overwrite").exit_code == 0


def test_a_hostile_file_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    attack = "\x1b]0;owned\x07\x1b[2J"
    data = valley().data.rename(sink_norm=attack)
    saved = save_dataset(data[[attack, "norm_ratio"]], tmp_path / "run.nc")
    result = run("report", saved, "--out", tmp_path / "report.html")
    assert_refused(result, 2, "run.nc")
    assert "\x1b" not in result.stderr and "\x07" not in result.stderr


def test_demo_ends_with_a_report(bundled_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("demo", "--n", 8)
    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().split("\n")[-1].startswith("report: demo.html (")
    page = (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert "tiny, layer" in page and "attention heads" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.html", "demo.nc"]
    assert (tmp_path / "demo.html").stat().st_size < 8_000_000
    assert_refused(run("demo", "--n", 8), 2, "demo.nc", "--overwrite")
    assert run("demo", "--n", 8, "--overwrite").exit_code == 0


def test_demo_leaves_somebodys_page_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before anything is measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mcr_lens.models.load_model", lambda *args, **kwargs: pytest.fail("it was run"))
    (tmp_path / "demo.html").write_text("mine")
    assert_refused(run("demo"), 2, "demo.html", "choose another place")
    assert [path.name for path in tmp_path.iterdir()] == ["demo.html"]
    assert (tmp_path / "demo.html").read_text() == "mine"
