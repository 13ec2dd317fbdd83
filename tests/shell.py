"""Running ``mcr-lens``: in this process, in one of its own, on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner, Result

from mcr_lens.cli import app

__all__ = ["COMMAND", "ENVIRONMENT", "assert_refused", "on_a_terminal", "run"]

COMMAND = [sys.executable, "-c", "from mcr_lens.cli import app; app()"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}


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


def on_a_terminal(*arguments: object, columns: int = 120) -> tuple[int, str]:
    """Exit code, and everything that a terminal of this width was sent."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (40, columns))
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=end, stderr=end, env={**environment, "TERM": "xterm"}
    )
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
    return process.wait(), shown.decode()
