"""What a page of prose says that can be checked: its Python runs, its shell lines parse."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from mcr_lens.cli import app

__all__ = ["ROOT", "blocks", "check_shell_line", "parsed", "run_python", "shell_lines"]

ROOT = Path(__file__).parent.parent
_OUTPUT = re.compile(r"^<!-- output: (.+) -->$", re.MULTILINE)
# What a script may hold beside commands of ours.
_OF_THE_SHELL = ("set", "sbatch")


def blocks(page: Path, language: str) -> Iterator[tuple[str, int]]:
    """The fenced blocks of a language, with the number of lines above each."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield match[1], text[: match.start(1)].count("\n")


def run_python(page: Path) -> dict[str, Any]:
    """Run the Python blocks of a page in order, in one namespace and the present folder."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for code, above in blocks(page, "python"):
        # Empty lines above the block: a traceback then names the line of the page.
        exec(compile("\n" * above + code, str(page), "exec"), namespace)
    return namespace


def shell_lines(page: Path) -> list[str]:
    """Every command of a page: of its blocks, and of the outputs that ``docs/regenerate.py`` renews."""
    lines = [command for command in _OUTPUT.findall(page.read_text(encoding="utf-8")) if command != "python"]
    for code, _ in blocks(page, "(?:sh|bash)"):
        lines += code.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def check_shell_line(line: str) -> None:
    """Raise unless the line is a command that this repository has, with arguments that it takes."""
    if re.match(r"[A-Za-z_]+=\(", line):  # an array of the shell
        return
    command, *arguments = shlex.split(line, comments=True)
    if command == "mcr-lens":
        parsed(arguments)
    elif command == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets), line
    elif command == "pip":
        _check_install(arguments)
    elif command == "jupyter":
        assert all((ROOT / place).is_file() for place in arguments if place.startswith("notebooks/")), line
    elif command in ("python", "torchrun", "bash"):
        _check_script(arguments, line)
    elif command == "ray":
        assert arguments[0] in ("start", "stop"), line
    elif command == "cd":
        assert (ROOT / arguments[0]).is_dir(), line
    else:
        assert command in _OF_THE_SHELL, line


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What ``mcr-lens`` makes of arguments, as far as its parser goes; nothing is run."""
    group: Any = get_command(app)
    context = group.make_context("mcr-lens", list(arguments[:1]))
    name, command, _ = group.resolve_command(context, arguments)
    return command.make_context(name, arguments[1:], parent=context).params


def _check_install(arguments: list[str]) -> None:
    line = " ".join(arguments)
    assert arguments[0] == "install", line
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for wanted in re.findall(r"\.\[(.+?)\]", line):
        assert set(wanted.split(",")) <= set(extras), line
    for place in re.findall(r"-c (\S+)", line):
        assert (ROOT / place).is_file(), line


def _check_script(arguments: list[str], line: str) -> None:
    """The script or module that is run exists."""
    if "-m" in arguments:
        module = arguments[arguments.index("-m") + 1].replace(".", "/")
        # Of the repository, or of its scripts, which are run from their folder.
        places = [folder / end for folder in (ROOT, ROOT / "scripts") for end in (module, f"{module}.py")]
        assert any(place.exists() for place in places), line
    else:
        script = next(argument for argument in arguments if not argument.startswith("-"))
        assert (ROOT / script).is_file(), line
