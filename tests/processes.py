"""Processes that a test has started, by their parents: those of other tests and programs are not touched."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["descendants", "is_alive", "until", "workers"]


def descendants(process: int) -> set[tuple[int, str]]:
    """Number and start of every process below one: together they name it for good."""
    above = {number: parent for number, parent, _ in _every()}
    starts = {number: start for number, _, start in _every()}
    found: set[int] = {process}
    while more := {number for number, parent in above.items() if parent in found} - found:
        found |= more
    return {(number, starts[number]) for number in found - {process} if number in starts}


def workers(process: int, doing: str = "run_cells") -> list[int]:
    """The Ray workers below a process, by default those that compute."""
    return sorted(number for number, _ in descendants(process) if f"ray::{doing}" in _command(number))


def is_alive(process: tuple[int, str]) -> bool:
    return any((number, start) == process for number, _, start in _every())


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait for something that will be; a machine that is busy may take long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def _every() -> Iterator[tuple[int, int, str]]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # ended meanwhile
                continue
            if fields[0] not in "ZX":
                yield int(name), int(fields[1]), fields[19]


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""
