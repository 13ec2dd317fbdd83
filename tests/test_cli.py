"""The command line: instant help, one clear line for what is wrong, exit codes that mean something."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import mcr_lens as mcr
from mcr_lens.cli import app

COMMAND = [sys.executable, "-c", "from mcr_lens.cli import app; app()"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "questions.jsonl"
    rows = [{"question": f"w{i} w{i + 1} w{i + 2} " * (1 + i % 4), "answer": "w0"} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_refused(result: Result, code: int, *parts: str) -> None:
    """The exit code, and one line on stderr that holds every part."""
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("mcr-lens: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("\n")
    for part in parts:
        assert part in result.stderr


# Help

IMPORTED = """
import sys
from mcr_lens.cli import app
sys.argv = ["mcr-lens", *sys.argv[1:]]
try:
    app()
except SystemExit as end:
    assert not end.code, end.code
heavy = "torch transformer_lens transformers xarray numpy pandas plotly datasets".split()
print("IMPORTED", [name for name in heavy if name in sys.modules])
"""


@pytest.mark.parametrize("arguments", [["--help"], ["profile", "--help"], ["demo", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-c", IMPORTED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert "IMPORTED []" in done.stdout
    assert done.stderr == ""


def test_import_of_the_package_imports_nothing_heavy() -> None:
    code = "import sys, mcr_lens; dir(mcr_lens); print('torch' in sys.modules, 'xarray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_help_names_every_option() -> None:
    text = run("profile", "--help").stdout
    options = "field n max-tokens batch-size chunk backend dtype device seed out config split revision"
    for option in options.split():
        assert f"--{option}" in text
    listed = run("--help").stdout
    assert "demo" in listed
    assert "profile" in listed


def test_no_command_shows_the_help() -> None:
    assert "Usage" in run().output


# Profile


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
    assert done.stdout.rstrip().endswith("(read it back with mcr_lens.Profile.load)")
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
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (40, 120))
    arguments = [str(llama_folder), str(questions), "--out", str(tmp_path / "run.nc"), "--field", "question"]
    environment = {**ENVIRONMENT, "TERM": "xterm"}
    process = subprocess.Popen([*COMMAND, "profile", *arguments], stdout=end, stderr=end, env=environment)
    os.close(end)
    shown = b""
    while True:
        try:
            block = os.read(terminal, 4096)
        except OSError:  # the other end was closed
            break
        if not block:
            break
        shown += block
    os.close(terminal)
    assert process.wait() == 0, shown.decode()
    text = shown.decode()
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


# What goes wrong


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
    assert_refused(run(*good, *field, "--n", "0"), 2, "n = 0")
    assert_refused(run(*good, *field, "--max-tokens", "1"), 2, "max_tokens = 1")
    assert_refused(run(*good, *field, "--chunk", "0"), 2, "chunk 0")
    assert not out.exists()


def test_a_prompt_longer_than_the_context(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("w1 " * 300)
    out = tmp_path / "run.nc"
    arguments = ["profile", llama_folder, tmp_path / "long.txt", "--out", out]
    assert_refused(run(*arguments), 2, "301 tokens", "256", "max_tokens=256")
    assert not out.exists()
    assert run(*arguments, "--max-tokens", "256").exit_code == 0
    assert mcr.Profile.load(out).data.attrs["prompts"]["truncated"] == 1


def test_arguments_that_are_missing_or_unknown(questions: Path) -> None:
    for arguments in (["profile"], ["profile", "tiny", questions], ["unknown"], ["profile", "--n", "x"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""


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


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RuntimeError("out of\nmemory,\n\n sorry"), 1, "the run failed: RuntimeError: out of memory, sorry"),
        (ValueError(""), 1, "the run failed: ValueError"),
        (KeyboardInterrupt(), 130, "interrupted, nothing was saved"),
        (mcr.InputError("this will not do"), 2, "this will not do"),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    line: str,
    llama_folder: Path,
    questions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("mcr_lens.engine._run_batch", fail)
    out = tmp_path / "run.nc"
    result = run("profile", llama_folder, questions, "--out", out, "--field", "question")
    assert_refused(result, code, line)
    assert os.listdir(tmp_path) == []


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
