"""Sweeps in processes of their own, that can be killed, and what is in their folders."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ENVIRONMENT", "Server", "assert_kept", "content", "finished", "server"]

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# Imports once, then runs the sweep into each folder it is told of, in a process of its own that it names;
# told of two folders on a line, it runs two at once.
SERVER = """
import os, sys, traceback
from mcr_lens.sweeps import RayEngine, read_grid, sweep

def start(out):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        sweep(read_grid(sys.argv[1]), out, eval(sys.argv[2]), progress=False)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

children = []
for line in sys.stdin:
    for child in children:
        os.waitpid(child, 0)
    children = [start(out) for out in line.rstrip("\\n").split("\\t")]
    print(*children, flush=True)
    # Collected with the next line: until then the number is nobody else's, and can be killed.
    ends = [os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT) for child in children]
    codes = [end.si_status if end.si_code == os.CLD_EXITED else -end.si_status for end in ends]
    print(*codes, flush=True)
"""


class Server:
    """The process that starts sweeps."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def start(self, *folders: Path) -> list[int]:
        assert self.process.stdin is not None
        self.process.stdin.write("\t".join(map(str, folders)) + "\n")
        self.process.stdin.flush()
        return self._numbers()

    def wait(self) -> list[int]:
        return self._numbers()

    def _numbers(self) -> list[int]:
        assert self.process.stdout is not None
        return list(map(int, self.process.stdout.readline().split()))


@contextmanager
def server(grid: Path, engine: str = "'local'") -> Iterator[Server]:
    """Sweeps of a grid by an engine, which is an expression in Python."""
    command = [sys.executable, "-c", SERVER, str(grid), engine]
    options: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **options) as process:
        try:
            yield Server(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every result: others, had it been written again."""
    if not folder.is_dir():
        return {}
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("[!.]*.nc")}


def assert_kept(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> None:
    assert {name: after.get(name) for name in before} == before
