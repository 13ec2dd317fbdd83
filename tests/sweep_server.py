"""Sweeps in processes of their own, that can be killed, and what is in their folders."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ENVIRONMENT", "Server", "assert_kept", "content", "finished", "killed_at_random", "server"]

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
    os.dup2(2, 1)  # what Ray prints of its workers: only the server's numbers go to the reader
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


def finished(folder: Path, pattern: str = "[!.]*.nc") -> dict[str, tuple[int, int]]:
    """Inode and time of every result: others, had it been written again."""
    if not folder.is_dir():
        return {}
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob(pattern)}


def assert_kept(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> None:
    assert {name: after.get(name) for name in before} == before


def killed_at_random(
    grid: Path,
    folder: Path,
    kills: int,
    seed: int,
    engine: str = "'local'",
    watch: Callable[[int], Callable[[], None]] = lambda process: lambda: None,
) -> int:
    """Kill a sweep again and again, let it end, compare with one left alone, and begin another.

    Args:
        watch: is given the process that is about to be killed; what it returns is called afterwards.

    Returns:
        How often some results were there, and not all.
    """
    rng = random.Random(seed)
    whole, out = folder / "whole", folder / "out0"
    died = halfway = sweeps = 0
    with server(grid, engine) as started:
        began = time.monotonic()
        started.start(whole)
        assert started.wait() == [0]
        seconds = time.monotonic() - began
        expected, n_results = content(whole), len(finished(whole))
        while died < kills:
            before, shards = finished(out), finished(out, ".*.nc")
            (process,) = started.start(out)
            if died % 2:  # every second time after the first new result, whatever the machine does besides
                _wait_for_more(out, len(before), seconds)
                time.sleep(rng.uniform(0, seconds / 20))
            else:
                time.sleep(rng.uniform(0, seconds))
            afterwards = watch(process)
            os.kill(process, signal.SIGKILL)
            died += started.wait() == [-signal.SIGKILL]
            after = finished(out)
            assert_kept(before, after)
            halfway += 0 < len(after) < n_results
            # Every result that is there is whole and right, before the sweep goes on.
            assert all(expected[name] == (out / name).read_bytes() for name in after)
            afterwards()
            # Shards wait, too, until they are put together; none is computed again.
            now = finished(out, ".*.nc")
            assert_kept({name: shards[name] for name in shards.keys() & now.keys()}, now)
            if len(after) == n_results or died == kills:
                started.start(out)
                assert started.wait() == [0]
                assert_kept(after, finished(out))
                assert content(out) == expected
                sweeps += 1
                out = folder / f"out{sweeps}"
    return halfway


def _wait_for_more(folder: Path, there: int, seconds: float) -> None:
    end = time.monotonic() + 5 * seconds
    while len(finished(folder)) <= there and time.monotonic() < end:
        time.sleep(0.01)
