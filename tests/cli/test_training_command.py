"""``mcr-lens training``: a file a step, resumed, and what appeared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shell import assert_refused, run

import mcr_lens as mcr
from mcr_lens.models.training_run import Checkpoint

OPTIONS = ("--field", "question", "--n", 3, "--max-tokens", 24)


def test_steps_are_profiled_shown_and_not_measured_again(
    bundled_model: Any, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "training"
    result = run("training", "tiny", questions, "--out", out, "--steps", "0,20000", *OPTIONS)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["step_0.nc", "step_20000.nc", "training.html"]
    prompts = mcr.load_prompts(questions, bundled_model, field="question", n=3, max_tokens=24)
    expected = mcr.profile(mcr.load_model("tiny", revision="step0"), prompts, progress=False)
    found = mcr.Profile.load(out / "step_0.nc")
    np.testing.assert_allclose(found["norm_ratio"], expected["norm_ratio"], rtol=1e-5)
    assert "norm ratio:" in result.stdout and "largest sink rate" in result.stdout
    loaded: list[int] = []
    load = Checkpoint.load
    monkeypatch.setattr(Checkpoint, "load", lambda self: loaded.append(self.step) or load(self))
    again = run("training", "tiny", questions, "--out", out, "--steps", "0,512,20000", *OPTIONS)
    assert again.exit_code == 0, again.output
    assert loaded == [20000, 512]  # the first for its tokenizer


def test_an_interrupt_says_what_is_there(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, loaded, load = tmp_path / "training", [], Checkpoint.load

    def interrupted(self: Checkpoint) -> Any:
        loaded.append(self.step)
        if loaded == [20000, 0, 20000]:  # the first for its tokenizer
            raise KeyboardInterrupt
        return load(self)

    monkeypatch.setattr(Checkpoint, "load", interrupted)
    result = run("training", "tiny", questions, "--out", out, "--steps", "0,20000", *OPTIONS)
    assert_refused(result, 130, "interrupted, 1 of 2 steps are in", "the same command goes on")
    assert [path.name for path in out.iterdir()] == ["step_0.nc"]


def test_bad_input_is_refused(questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "training"
    assert_refused(run("training", "tiny", questions, "--out", out, "--steps", "3", *OPTIONS), 2, "step 3")
    assert_refused(run("training", "tiny", questions, "--out", out, "--steps", "x", *OPTIONS), 2, "--steps")
    refused = run("training", "tiny", questions, "--out", out, "--revision", "step0", *OPTIONS)
    assert_refused(refused, 2, "use --steps")
    (tmp_path / "file").write_text("")
    assert_refused(run("training", "tiny", questions, "--out", tmp_path / "file", *OPTIONS), 2, "file")
    assert not out.exists()
