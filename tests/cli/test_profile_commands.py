"""``mcr-lens profile`` and ``demo``: the whole run, and one clear line for what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from shell import COMMAND, ENVIRONMENT, assert_refused, on_a_terminal, run

import mcr_lens as mcr


def assert_is_the_profile_of(out: Path, llama_folder: Path, questions: Path, n: int) -> None:
    model = mcr.load_model(llama_folder)
    prompts = mcr.load_prompts(questions, model, field="question", n=n, max_tokens=9)
    expected = mcr.profile(model, prompts, progress=False)
    found = mcr.Profile.load(out)
    assert found.data.sizes["prompt"] == n
    for name in expected.data.data_vars:
        difference = abs(found.data[name].astype(float) - expected.data[name].astype(float))
        assert float(difference.max()) <= 1e-5 * max(1.0, float(abs(expected.data[name]).max())), name
    assert found.data.attrs["prompts"] == prompts.attributes()


def test_profile_of_a_folder_in_a_pipe(llama_folder: Path, questions: Path, tmp_path: Path) -> None:
    """The whole command in a process of its own: table, findings, file; no bar, no noise."""
    out = tmp_path / "run.nc"
    arguments = [str(llama_folder), str(questions), "--out", str(out), "--field", "question"]
    arguments += ["--n", "8", "--max-tokens", "9", "--batch-size", "3"]
    command = [*COMMAND, "profile", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\r" not in done.stdout
    assert "\x1b" not in done.stdout
    assert "norm ratio" in done.stdout
    assert "The first token's norm is" in done.stdout
    assert done.stdout.rstrip().endswith("(read it back with mcr_lens.load)")
    assert os.listdir(tmp_path) == ["run.nc"]
    assert_is_the_profile_of(out, llama_folder, questions, 8)


def test_the_table_is_the_summary(llama_folder: Path, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.nc"
    result = run("profile", llama_folder, questions, "--out", out, "--field", "question")
    assert result.exit_code == 0, result.output
    summary = mcr.Profile.load(out).summary()
    for depth, row in summary.iterrows():
        cells = [f"{value:.3f}" for value in row if value == value]
        line = next(line for line in result.stdout.split("\n") if line.startswith(f"│ {depth:>5} "))
        assert [cell.strip() for cell in line.strip("│").split("│")][1:][: len(cells)] == cells


def test_the_options_reach_the_run(llama_folder: Path, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.nc"
    options = ["--field", "question", "--n", 3, "--seed", 5, "--chunk", 4, "--dtype", "bfloat16"]
    result = run("profile", llama_folder, questions, "--out", out, *options, "--backend", "bridge")
    assert result.exit_code == 0, result.output
    made = mcr.Profile.load(out).data
    assert made.sizes["prompt"] == 3
    assert made.attrs["dtype"] == "bfloat16"
    assert made.attrs["backend"] == "bridge"
    model = mcr.load_model(llama_folder)
    sample = mcr.load_prompts(questions, model, field="question", n=3, seed=5)
    assert made.attrs["prompts"]["digest"] == sample.digest


def test_a_bar_on_a_terminal(llama_folder: Path, questions: Path, tmp_path: Path) -> None:
    code, text = on_a_terminal(
        "profile", llama_folder, questions, "--out", tmp_path / "run.nc", "--field", "question"
    )
    assert code == 0, text
    assert "12/12" in text
    assert "prompt/s" in text
    assert "saved" in text


def test_ctrl_c_in_the_middle(llama_folder: Path, questions: Path, tmp_path: Path) -> None:
    """A real signal to a process that is measuring: one line, exit code 130, no file."""
    code = (
        "import sys, time\n"
        "import mcr_lens.engine as engine\n"
        "def slow(*args):\n    print('measuring', flush=True); time.sleep(60)\n"
        "engine._run_batch = slow\n"
        "from mcr_lens.cli import app\n"
        "app()\n"
    )
    arguments = [str(llama_folder), str(questions), "--out", str(tmp_path / "run.nc"), "--field", "question"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "profile", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "measuring\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "mcr-lens: interrupted, nothing was saved\n"
    assert os.listdir(tmp_path) == []


def test_bad_input_is_one_line_and_exit_code_2(llama_folder: Path, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.nc"
    last = ["--out", out]
    good = ["profile", llama_folder, questions, *last]
    assert_refused(run(*good), 2, "choose a field", "question, answer")
    assert_refused(run(*good, "--field", "text"), 2, "no field 'text'")
    assert_refused(run("profile", llama_folder, tmp_path / "no.jsonl", *last), 2, "no such file")
    assert_refused(run("profile", tmp_path / "none", questions, *last), 2, "not a folder")
    field = ["--field", "question"]
    assert_refused(run("profile", "gpt2", questions, *last, *field), 2, "gpt2", "'tiny'")
    assert_refused(run(*good, *field, "--batch-size", "many"), 2, "--batch-size 'many'")
    assert_refused(run(*good, *field, "--batch-size", "0"), 2, "--batch-size '0'")
    assert_refused(run(*good, *field, "--dtype", "int4"), 2, "float32, bfloat16, float16")
    assert_refused(run(*good, *field, "--n", "0"), 2, "--n = 0")
    assert_refused(run(*good, *field, "--max-tokens", "1"), 2, "--max-tokens = 1")
    assert_refused(run(*good, *field, "--chunk", "0"), 2, "chunk '0'")
    assert not out.exists()


def test_what_can_be_seen_before_the_model_is_loaded_is_told_then(
    llama_folder: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcr_lens.models.load_model", lambda *args, **kwargs: pytest.fail("it was loaded"))
    out = tmp_path / "run.nc"
    assert_refused(run("profile", llama_folder, tmp_path / "no.jsonl", "--out", out), 2, "no such file")
    good = ["profile", llama_folder, questions, "--field", "question"]
    assert_refused(run(*good, "--n", "0", "--out", out), 2, "--n = 0")
    assert_refused(run(*good, "--out", tmp_path / "run.txt"), 2, "run.nc")
    out.write_bytes(b"\x89HDF\r\n\x1a\n")
    assert_refused(run(*good, "--out", out), 2, "already there", "--overwrite")


def test_a_result_is_replaced_when_that_is_asked_for(
    llama_folder: Path, questions: Path, tmp_path: Path
) -> None:
    good = ["profile", llama_folder, questions, "--field", "question", "--out", tmp_path / "run.nc"]
    assert run(*good, "--n", "2").exit_code == 0
    assert run(*good, "--n", "3", "--overwrite").exit_code == 0
    assert mcr.Profile.load(tmp_path / "run.nc").data.sizes["prompt"] == 3


def test_a_prompt_longer_than_the_context(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("w1 " * 300)
    out = tmp_path / "run.nc"
    arguments = ["profile", llama_folder, tmp_path / "long.txt", "--out", out]
    assert_refused(run(*arguments), 2, "301 tokens", "256", "--max-tokens 256")
    assert not out.exists()
    assert run(*arguments, "--max-tokens", "256").exit_code == 0
    assert mcr.Profile.load(out).data.attrs["prompts"]["truncated"] == 1


def test_a_place_that_cannot_be_written_is_told_before_the_run(
    llama_folder: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after hours of measuring."""
    monkeypatch.setattr("mcr_lens.models.load_model", lambda *args, **kwargs: pytest.fail("it was run"))
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file" / "run.nc"):
        result = run("profile", llama_folder, questions, "--field", "question", "--out", out)
        assert_refused(result, 2, str(out), "cannot be written")
    assert_refused(run("demo", "--out", tmp_path), 2, "cannot be written")


def test_a_disk_that_is_full_leaves_nothing(
    llama_folder: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xarray.Dataset.to_netcdf", full)
    out = tmp_path / "new" / "run.nc"
    result = run("profile", llama_folder, questions, "--field", "question", "--out", out)
    assert_refused(result, 2, str(out), "No space left on device")
    assert not list(tmp_path.rglob("*.nc*"))


def test_demo(bundled_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("demo", "--n", 8)
    assert result.exit_code == 0, result.output
    assert "Profile of tiny, 8 prompts" in result.stdout
    assert "saved demo.nc" in result.stdout
    found = mcr.Profile.load(tmp_path / "demo.nc").data
    assert found.attrs["prompts"]["source"] == "word_problems(8, 0)"
    assert found.sizes["depth"] == bundled_model.cfg.n_layers + 1


def test_a_reader_who_leaves_early_costs_nothing(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("w0 w1 w2 w3")
    code = "from mcr_lens.cli import app; app()"
    command = [
        sys.executable,
        "-c",
        code,
        "profile",
        str(llama_folder),
        str(tmp_path / "p.txt"),
        "--out",
        "run.nc",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    assert (process.wait(), "Error" in said) == (0, False), said
    assert len(mcr.Profile.load(tmp_path / "run.nc").data.prompt) == 1
