"""Who writes into a folder: names for temporary folders that tell later whether their writer is dead."""

import contextlib
import hashlib
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["has_writers", "remove_leftovers", "temporary_folder"]

_PREFIX = ".mcr-lens-sweep"
_SUFFIX = ".part"


class _Writer(NamedTuple):
    """A process: where it runs, and which of all that ever had its number."""

    machine: str
    boot: str
    namespace: str
    process: str
    started: str


@contextlib.contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder inside ``folder``, on the same disk, that bears its writer's name; gone afterwards."""
    name = ".".join([_PREFIX, *_this_process(), uuid.uuid4().hex[:8]]) + _SUFFIX
    made = folder / name
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def has_writers(folder: Path) -> bool:
    """Whether somebody's temporary folder is there, alive or dead."""
    return any(folder.glob(f"{_PREFIX}.*{_SUFFIX}"))


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary folders of writers that are dead, and say which.

    Only what bears such a name, was made on this machine, and whose process is provably no more. What a
    process on another machine left is not touched: from here nobody can know.
    """
    removed = []
    for path in sorted(folder.glob(f"{_PREFIX}.*{_SUFFIX}")):
        parts = path.name.removeprefix(_PREFIX + ".").removesuffix(_SUFFIX).split(".")
        if len(parts) == len(_Writer._fields) + 1 and _is_dead(_Writer(*parts[:-1])):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def _is_dead(writer: _Writer) -> bool:
    here = _this_process()
    if writer.machine != here.machine:
        return False
    if writer.boot != here.boot:
        return bool(here.boot)  # nothing outlives a restart, where the system says which one this is
    if writer.namespace != here.namespace or not writer.process.isdecimal():
        return False
    return writer.started != _started(int(writer.process))


def _this_process() -> _Writer:
    name = f"{socket.gethostname()} {_read('/etc/machine-id')}"
    machine = hashlib.sha256(name.encode()).hexdigest()[:12]
    boot = _read("/proc/sys/kernel/random/boot_id").replace("-", "")[:12]
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:  # a system without namespaces
        namespace = "0"
    return _Writer(machine, boot, namespace, str(os.getpid()), _started(os.getpid()))


def _started(process: int) -> str:
    """When a process started, in the system's own ticks; ``"gone"`` for none, ``"alive"`` if only that shows.

    A process number is used again by others: with its start it is one process for good.
    """
    if Path("/proc/self/stat").exists():
        stat = _read(f"/proc/{process}/stat")
        # Behind the name in parentheses, which may hold anything: state first, start as the 20th.
        fields = stat.rpartition(")")[2].split()
        return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else "gone"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass  # somebody else's, and alive
    return "alive"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:  # not this system, or a process that has ended
        return ""
