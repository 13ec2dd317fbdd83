"""What holds for every command: instant help, exit codes that mean something, groups of options."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from shell import ENVIRONMENT, assert_refused, run
from typer.testing import CliRunner

import mcr_lens as mcr
from mcr_lens.cli.command import command
from mcr_lens.cli.show import showing

NAMES = ("demo", "profile", "ablate", "lens", "training", "tasks", "sweep", "report")
IMPORTED = """
import sys
from mcr_lens.cli import app
for arguments in %r:
    try:
        app(arguments)
    except SystemExit as end:
        assert not end.code, end.code
heavy = "torch transformer_lens transformers xarray numpy pandas plotly datasets".split()
print("IMPORTED", [name for name in heavy if name in sys.modules])
""" % [["--help"], ["-h"], ["--version"], *([name, "--help"] for name in NAMES)]


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", IMPORTED]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert "IMPORTED []" in done.stdout
    assert done.stderr == ""


def test_import_of_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import mcr_lens; dir(mcr_lens)\n"
        "parts = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(parts - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['lazy_loader', 'mcr_lens']"


def test_help_names_every_option() -> None:
    text = run("profile", "--help").stdout
    options = "field n max-tokens batch-size chunk backend dtype device seed out config split revision"
    for option in options.split():
        assert f"--{option}" in text
    listed = run("--help").stdout
    assert "demo" in listed
    assert "profile" in listed


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"mcr-lens {mcr.__version__}\n"


def test_no_command_shows_the_help() -> None:
    assert "Usage" in run().output


def test_arguments_that_are_missing_or_unknown(questions: Path) -> None:
    for arguments in (["profile"], ["profile", "tiny", questions], ["unknown"], ["profile", "--n", "x"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RuntimeError("out of\nmemory,\n\n sorry"), 1, "the run failed: RuntimeError: out of memory, sorry"),
        (ValueError(""), 1, "the run failed: ValueError"),
        (MemoryError(), 1, "the run failed: out of memory (there was not enough); see mcr-lens plan"),
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


# Groups of options


@dataclass(frozen=True)
class Fruit:
    kind: Annotated[str, typer.Argument()]
    number: Annotated[int, typer.Option()] = 1

    def __post_init__(self) -> None:
        if self.number < 1:
            raise mcr.InputError(f"--number {self.number}: use 1 or more")


def fruit_bowl(function: Any) -> typer.Typer:
    bowl = typer.Typer()
    bowl.command()(command(function))
    return bowl


def test_a_group_of_options_comes_as_one_object() -> None:
    def eat(fruit: Fruit, peeled: Annotated[bool, typer.Option("--peeled")] = False) -> None:
        """Eat something."""
        print(fruit, peeled)

    bowl = fruit_bowl(eat)
    shown = CliRunner().invoke(bowl, ["--help"]).stdout
    for part in ("Eat something", "kind", "--number", "--peeled"):
        assert part in shown
    result = CliRunner().invoke(bowl, ["plum", "--number", "3", "--peeled"])
    assert result.stdout == "Fruit(kind='plum', number=3) True\n", result.output
    assert CliRunner().invoke(bowl, ["plum"]).stdout == "Fruit(kind='plum', number=1) False\n"
    assert_refused(CliRunner().invoke(bowl, ["plum", "--number", "0"]), 2, "--number 0")


def test_an_option_that_is_there_twice_is_found_when_the_command_is_made() -> None:
    def eat(fruit: Fruit, number: Annotated[int, typer.Option()] = 1) -> None: ...

    with pytest.raises(ValueError, match="number"):
        command(eat)


def test_ctrl_c_after_the_result_is_saved_says_where_it_is() -> None:
    def save() -> None:
        with showing("run.nc"):
            raise KeyboardInterrupt

    assert_refused(
        CliRunner().invoke(fruit_bowl(save), []), 130, "interrupted; the result is saved in run.nc"
    )
