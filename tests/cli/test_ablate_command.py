"""``mcr-lens ablate``: a folder of four files that say the same, or nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from shell import assert_refused, on_a_terminal, run

import mcr_lens as mcr
from mcr_lens.experiments.ablation.arms import ARMS
from mcr_lens.results.tables import number

FILES = ["claims.md", "dose_response.html", "effects.csv", "study.nc"]
SMALL = ("--field", "question", "--n", 3, "--layers", 1, "--doses", "0.5,1", "--arms", "write,other-token")


def unfolded(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def done(llama_folder: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a small study, and what was printed."""
    out = tmp_path_factory.mktemp("ablate") / "new" / "study"
    result = run("ablate", llama_folder, questions, "--out", out, *SMALL, "--control-seed", 4)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert sorted(os.listdir(out)) == FILES
    assert os.listdir(out.parent) == ["study"]
    return out, result.stdout


def test_the_study_is_that_of_the_options(done: tuple[Path, str], llama: Any, questions: Path) -> None:
    prompts = mcr.load_prompts(questions, llama, field="question", n=3)
    expected = mcr.ablation_study(
        llama, prompts, [1], [0.5, 1], ["write", "other token"], seed=4, progress=False
    )
    found = mcr.experiments.AblationStudy.load(done[0] / "study.nc")
    assert found.data.dose.values.tolist() == [0, 0.5, 1]
    assert found.data.attrs["seed"] == 4
    np.testing.assert_allclose(
        found.outcomes().to_array(), expected.outcomes().to_array(), rtol=1e-4, atol=1e-5
    )


def test_what_is_printed_and_written_is_what_the_study_says(done: tuple[Path, str]) -> None:
    folder, shown = done
    study = mcr.experiments.AblationStudy.load(folder / "study.nc")
    effects, page = study.effects(), (folder / "claims.md").read_text(encoding="utf-8")
    pd.testing.assert_frame_equal(pd.read_csv(folder / "effects.csv"), effects, check_flags=False)
    for claim in study.claims():
        assert f"- {claim}\n" in shown
        assert f"- {claim.question} **{claim.verdict}**: {claim.why}\n" in page
    for arm, what in study.data.attrs["arms"].items():
        assert f"- {arm}: {what}\n" in shown
        assert f"- {arm}: {what}\n" in page
    means = study.outcomes().mean("prompt")
    for arm, dose in [("baseline", 0.0), *((arm, 1.0) for arm in study.data.arm.values)]:
        there = means.sel(arm=study.data.arm.values[0] if arm == "baseline" else arm, dose=dose)
        cells = [number(float(there[name])) for name in there]
        drawn = next(line for line in shown.splitlines() if line.startswith(f"│ {arm} "))
        assert [cell.strip() for cell in drawn.strip("│").split("│")] == [arm, *cells]
        assert f"| {' | '.join([arm, *cells])} |\n" in page
    for text in (shown, page):
        assert f"over 3 prompts, which give no less than {effects.attrs['smallest_p']:.2g}," in text
        assert f"corrected for {effects.attrs['comparisons']} primary rows (Holm)" in text
        assert "supported:" not in text and "cannot be said" in text  # three prompts are too few
    for name in FILES:
        assert f"\n  {name} " in shown


def test_the_figure_opens_without_a_network(done: tuple[Path, str]) -> None:
    page = (done[0] / "dose_response.html").read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page
    assert len(page) > 1_000_000
    assert re.findall(r"<(?:script|link)[^>]*(?:src|href)=", page) == []


def test_a_study_is_replaced_only_when_asked(
    done: tuple[Path, str], llama_folder: Path, questions: Path, tmp_path: Path
) -> None:
    (tmp_path / "claims.md").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine too")
    command = ["ablate", llama_folder, questions, "--out", tmp_path, *SMALL]
    assert_refused(run(*command), 2, str(tmp_path), "claims.md already there", "--overwrite")
    assert sorted(os.listdir(tmp_path)) == ["claims.md", "notes.txt"]
    assert (tmp_path / "claims.md").read_text() == "mine"
    assert run(*command, "--overwrite").exit_code == 0
    assert sorted(os.listdir(tmp_path)) == sorted([*FILES, "notes.txt"])
    assert (tmp_path / "claims.md").read_text() != "mine"
    assert (tmp_path / "notes.txt").read_text() == "mine too"


def test_bad_input_is_one_line_and_leaves_nothing(
    llama_folder: Path, questions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    good = ["ablate", llama_folder, questions, "--out", out, "--field", "question", "--n", 3]
    assert_refused(run(*good, "--layers", 99), 2, "layers [99]", "0..2")
    layer = [*good, "--layers", 1]
    assert_refused(run(*layer, "--arms", "write,foo"), 2, "foo", *(arm.replace(" ", "-") for arm in ARMS))
    assert_refused(run(*layer, "--doses", "2"), 2, "2", "from 0 to 1")
    assert_refused(run(*layer, "--sink-position", 500), 2, "sink_position 500")
    assert_refused(run(*layer, "--max-ratio", -1), 2, "max_ratio -1")
    assert_refused(run(*layer, "--chunk", 0), 2, "chunk '0'")
    assert_refused(run("ablate", llama_folder, tmp_path / "no.jsonl", "--out", out), 2, "no such file")
    assert os.listdir(tmp_path) == []


def test_what_can_be_seen_before_the_model_is_loaded_is(
    llama_folder: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcr_lens.models.load_model", lambda *args, **kwargs: pytest.fail("it was loaded"))
    (tmp_path / "file").touch()
    command = ["ablate", llama_folder, questions, "--out"]
    for out in (tmp_path / "file", tmp_path / "file" / "study"):
        assert_refused(run(*command, out), 2, str(out), "cannot be written", "is not a folder")
    out = tmp_path / "study"
    assert_refused(run(*command, out, "--layers", "1,x"), 2, "--layers '1,x'", "'emergence'")
    assert_refused(run(*command, out, "--doses", "nan"), 2, "--doses 'nan'")
    assert_refused(run(*command, out, "--batch-size", "many"), 2, "--batch-size 'many'")
    assert run(*command, out, "--control-seed", -1).exit_code == 2
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_loses_no_finished_measurement(
    llama_folder: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    for place, left in (
        ("xarray.Dataset.to_netcdf", []),
        ("plotly.graph_objects.Figure.write_html", ["study.nc"]),
    ):
        out = tmp_path / place
        with monkeypatch.context() as patched:
            patched.setattr(place, full)
            result = run("ablate", llama_folder, questions, "--out", out, *SMALL)
        assert_refused(result, 2, str(out), "cannot be written (No space left on device)")
        assert [path.name for path in out.rglob("*")] == left


def test_help_names_every_arm_and_file() -> None:
    shown = unfolded(run("ablate", "--help").stdout.replace("│", " "))
    for name in (*FILES, *(arm.replace(" ", "-") for arm in ARMS)):
        assert name in shown
    for option in "layers doses arms max-ratio sink-position control-seed seed overwrite chunk".split():
        assert f"--{option}" in shown


def test_a_bar_and_nothing_folded_or_cut_on_a_terminal(
    llama_folder: Path, questions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    code, text = on_a_terminal("ablate", llama_folder, questions, "--out", out, *SMALL, columns=100)
    assert code == 0, text
    assert "6/6" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.split("Ablation study of")[1])
    assert all(len(line) <= 100 for line in plain.splitlines() if not line.startswith("saved in"))
    study = mcr.experiments.AblationStudy.load(out / "study.nc")
    for claim in study.claims():
        assert unfolded(str(claim)) in unfolded(plain)
    assert f"{float(study.outcomes().loss.sel(dose=1).isel(arm=0).mean()):.3f} │" in plain
