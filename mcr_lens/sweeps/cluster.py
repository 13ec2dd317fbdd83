"""A Ray cluster for the time of a sweep: one that is there, or one of our own that ends with the sweep."""

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mcr_lens.errors import InputError, one_line
from mcr_lens.sweeps.writers import has_writers, remove_leftovers, temporary_folder

__all__ = ["connected", "remove_left_behind", "rooms_by_machine"]

_PREFIX = "mcr-lens-ray-"
# Ray puts sockets below its folder, and a system cuts their paths at 107 characters.
_LONGEST_PLACE = 20
# What passes through the store are profiles, one at a time; what is too much for it goes to the disk.
_STORE = 512 * 2**20
_SECONDS_TO_ANSWER = 10
_SECONDS_TO_CONNECT = 30
# A folder has its writer's name at once; one without was on its way when somebody was killed.
_SECONDS_TO_BE_NAMED = 60
# Connects as the sweep will: what it cannot reach, Ray tries to for minutes, and cannot be stopped meanwhile.
# It has a limit of its own, for when nobody is left to stop it.
_CONNECT = f"""
import signal, sys
signal.alarm({_SECONDS_TO_CONNECT} + 5)
import ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
"""


@contextlib.contextmanager
def connected(address: str | None, cpus: int) -> Iterator[Any]:
    """The module ``ray``, connected for the time of the block.

    What this process is connected to already is used, and left as it is. A cluster at ``address`` is left
    running. Without an address one with room for ``cpus`` starts on this machine, and its processes and
    files are gone afterwards; when this process is killed, they end by themselves.

    Raises:
        InputError: when there is no cluster at the address.
    """
    import ray

    if ray.is_initialized():
        if address is not None:
            raise InputError(
                f"address {address!r}: this process is connected to Ray already; leave the address out, or "
                "call ray.shutdown() first"
            )
        yield ray
        return
    with _own_signals() as set_signals, _no_telemetry(), _no_prints(), contextlib.ExitStack() as stack:
        # Without a handler of ours a worker's words would stand between the bars.
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            place = stack.enter_context(_session_folder())
            stack.callback(ray.shutdown)
            ray.init(
                "local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=_STORE,
                _temp_dir=str(place),
                **quiet,
            )
        else:
            _check_address(address)
            stack.callback(ray.shutdown)
            ray.init(address, **quiet)
        set_signals()
        try:
            yield ray
        finally:
            _ignore_signals()  # the end must be whole; Ray's takes a second or two


def rooms_by_machine(ray: Any, cpus: float, gpus: float) -> list[int]:
    """How many workers of this size each machine of the cluster has room for, if nothing else runs there."""
    rooms = []
    for node in ray.nodes():
        has = node["Resources"] if node["Alive"] else {}
        needed = [(has.get("CPU", 0.0), cpus), (has.get("GPU", 0.0), gpus)]
        rooms.append(min(int(there / size + 1e-9) for there, size in needed if size))
    return rooms


def _check_address(address: str) -> None:
    """Raise ``InputError`` unless a cluster answers: Ray itself tries for minutes, and ends the process."""
    if address != "auto":
        _check_socket(address)
    try:
        tried = subprocess.run(
            [sys.executable, "-P", "-c", _CONNECT, address],  # a ray.py of the user's is not Ray
            capture_output=True,
            timeout=_SECONDS_TO_CONNECT,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"address {address!r}: no Ray cluster answers within {_SECONDS_TO_CONNECT} s, though one may "
            "have been there; start one with ray start --head, or leave the address out"
        ) from error
    if tried.returncode:
        said = tried.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise InputError(
            f"address {address!r}: no Ray cluster there, or one that wants its token, for which "
            f"RAY_AUTH_MODE=token is to be set ({said[-1][:200]}); start one with ray start --head, or leave "
            "the address out"
        )


def _check_socket(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not host or not port.isdecimal():
        raise InputError(
            f"address {address!r}: use HOST:PORT, as ray start --head prints it, or 'auto' on a machine "
            "of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"address {address!r}: nothing answers there ({one_line(error)}); start a cluster with "
            "ray start --head, or leave the address out"
        ) from error


def remove_left_behind() -> None:
    """Remove the folders of clusters whose sweeps were killed: those with a dead writer's name, or none."""
    for old in _place().glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or gone meanwhile
            nameless = not has_writers(old) and time.time() - old.stat().st_mtime > _SECONDS_TO_BE_NAMED
            if remove_leftovers(old) or nameless:
                shutil.rmtree(old, ignore_errors=True)


def _place() -> Path:
    place = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    return place if len(str(place)) <= _LONGEST_PLACE else Path("/tmp")


@contextlib.contextmanager
def _session_folder() -> Iterator[Path]:
    """Where Ray keeps its sockets and logs; those of sweeps that were killed are removed first."""
    place = _place()
    remove_left_behind()
    made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    try:
        with temporary_folder(made):  # it bears our name: whoever finds it knows whether we live
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def _own_signals() -> Iterator[Callable[[], None]]:
    """SIGTERM for the time of the block: Ray sets a handler of its own, and one more below Python.

    The handler that was there before stays; where that was none, one that ends the sweep as Ctrl-C does:
    files and processes are gone, and the exit code is 143. What is yielded is to be called once Ray has
    started.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    from ray._private import utils as ray_utils

    before, of_ctrl_c = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    setter = getattr(ray_utils, "set_sigterm_handler", None)
    ended: list[int] = []

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the end
        ended.append(number)
        raise KeyboardInterrupt  # all that Ray lets through

    def set_ours() -> None:
        if ended:  # and what was raised has come to where Python drops it, such as what is called at a fork
            raise KeyboardInterrupt
        signal.signal(signal.SIGTERM, end if before == signal.SIG_DFL else before)

    ray_utils.set_sigterm_handler = lambda handler: None  # there is no option for it
    set_ours()
    try:
        yield set_ours
    except KeyboardInterrupt as error:
        if ended:
            raise SystemExit(128 + ended[0]) from error
        raise
    except SystemExit as error:  # of a Ray that sets its handler in another way, while it starts
        if error.code == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM) from error
        raise
    finally:
        ray_utils.set_sigterm_handler = setter
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, of_ctrl_c)


def _ignore_signals() -> None:
    """Until the handlers of before are set again."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _no_prints() -> Iterator[None]:
    """Ray tells of workers that died on standard output, where the table stands: the dispatcher says it."""
    from ray._private import worker as printing

    before = getattr(printing, "_worker_logs_enabled", True)
    printing._worker_logs_enabled = False  # there is no option for it
    try:
        yield
    finally:
        printing._worker_logs_enabled = before


@contextlib.contextmanager
def _no_telemetry() -> Iterator[None]:
    """Ray reports to its makers unless it is told not to; who has decided is left alone."""
    name = "RAY_USAGE_STATS_ENABLED"
    if name in os.environ:
        yield
        return
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ.pop(name, None)
