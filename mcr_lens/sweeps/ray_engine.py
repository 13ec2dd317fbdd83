"""The Ray engine: groups of cells, or of shards of cells, are tasks of Ray, here or on a cluster."""

import contextlib
import functools
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from tqdm.auto import tqdm

from mcr_lens.errors import InputError, one_line, require_extra
from mcr_lens.models.memory import Sharing
from mcr_lens.sweeps.cells import Cell
from mcr_lens.sweeps.fields import Count, table
from mcr_lens.sweeps.run import groups, run_group
from mcr_lens.sweeps.store import ResultFolder

__all__ = ["RayEngine"]

_SECONDS_A_LOOK = 1.0
_SECONDS_TO_ANSWER = 10
# Only names and warnings pass through Ray's store; the least that it takes is 75 MB.
_STORE = 128 * 2**20


class WorkerDied(RuntimeError):
    """What is recorded of a cell that no worker survives."""


@table
class RayEngine:
    """``engine=RayEngine(...)`` of ``sweep``; ``engine="ray"`` is the one with no settings.

    A group of cells of one model is a task of Ray, whose process loads the model once and writes its results
    itself: the folder of results, models and prompts have the same path on every machine.

    Attributes:
        workers: how many tasks at a time; as many as there is room for when left out.
        address: of a cluster that is running, ``"HOST:PORT"``, or ``"auto"`` on one of its machines. Left
            out, one of this machine's own is started, and ended with the sweep.
        cpus_per_worker: cores, and threads that PyTorch computes with.
        gpus_per_worker: a whole number, or less than 1 for workers that share one; 1 where the cluster has
            GPUs when left out, else 0.
        shards: parts in which the prompts of each cell are cut; left out, as many as give every worker a
            part of one, and no more. Parts are neighbouring prompts, and the profile put together of them
            is that of all prompts, to float error: names of files do not tell how many there were.
        retries: how often a cell is tried again when a worker has died of it.

    Raises:
        InputError: for a number that cannot be, or when Ray is not installed.

    Example::

        mcr.sweeps.sweep(grid, "results", RayEngine(workers=4, shards=2))
    """

    workers: Count | None = None
    address: str | None = None
    cpus_per_worker: Count = 1
    gpus_per_worker: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    shards: Count | None = None
    retries: Annotated[int, Field(ge=0)] = 2

    def __post_init__(self) -> None:
        gpus = self.gpus_per_worker
        if gpus is not None and gpus > 1 and not gpus.is_integer():
            raise InputError(f"gpus_per_worker = {gpus}: use a whole number, or one from 0 to 1")
        require_extra("ray", "several workers", "ray")

    def __call__(self, listed: Sequence[Cell], store: ResultFolder, progress: bool) -> None:
        """Compute the cells that are not in the folder; failures are recorded there, and the rest goes on."""
        left = [cell for cell in listed if not store.is_done(cell)]
        if not left:
            return
        # Those that a queueing system has given to this process, where the system tells.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores = self.workers * self.cpus_per_worker if self.workers else max(cores, self.cpus_per_worker)
        with _connected(self.address, cores) as ray, contextlib.redirect_stdout(sys.stderr):
            # Ray prints on standard output, where the table stands, that a worker has died.
            workers, gpus, sharing = self._room(ray)
            # Of all cells, not of those left: a sweep that goes on cuts as it did before.
            shards = self.shards or math.ceil(workers / len(listed))
            parts = [part for cell in left for part in cell.shards(shards)]
            task = ray.remote(max_retries=0, num_cpus=self.cpus_per_worker, num_gpus=gpus)(run_cells)
            task = functools.partial(task.remote, store, os.getcwd(), self.cpus_per_worker, sharing)
            quiet = None if progress else True
            with tqdm(total=len(listed), desc="sweep", unit="cell", disable=quiet) as bar:
                for unfinished in self._tasks(ray, task, groups(parts, workers), workers, store):
                    ended = (store.is_done(cell) or cell.name not in unfinished for cell in listed)
                    bar.update(sum(ended) - bar.n)

    def _tasks(
        self, ray: Any, task: Callable[..., Any], waiting: list[list[Cell]], workers: int, store: ResultFolder
    ) -> Generator[set[str]]:
        """Give out groups until all have ended; after each look the names of the cells that have not."""
        running: dict[Any, list[Cell]] = {}
        lost: Counter[Path] = Counter()
        try:
            while waiting or running:
                unfinished = _names(waiting) | _names(running.values())
                ready = [group for group in waiting if not _awaited(group) & unfinished]
                for group in ready[: workers - len(running)]:
                    waiting.remove(group)
                    running[task(group)] = group
                ended, _ = ray.wait(list(running), timeout=_SECONDS_A_LOOK)
                for call in ended:
                    group = running.pop(call)
                    try:
                        for category, message in ray.get(call):
                            warnings.warn(message, category, stacklevel=2)
                    except ray.exceptions.RayTaskError:  # no cell's failure: the disk is full, for one
                        raise
                    except ray.exceptions.RayError as error:
                        waiting[:0] = self._again(group, error, lost, store)
                    unfinished = _names(waiting) | _names(running.values())
                    for cell in {part.name: part for part in group if part.name not in unfinished}.values():
                        _finish(cell, store)
                yield unfinished
        finally:
            for call in running:
                ray.cancel(call, force=True)

    def _again(
        self, group: list[Cell], error: Exception, lost: Counter[Path], store: ResultFolder
    ) -> list[list[Cell]]:
        """What a worker has left that died: cell by cell, and none that has killed too many."""
        left = [cell for cell in group if not store.is_done(cell)]
        if len(group) > 1 or not left:
            return [[cell] for cell in left]
        (cell,), path = left, store.result_path(left[0])
        lost[path] += 1
        if lost[path] > self.retries:
            words = f"{lost[path]} workers died of it, the last of: {one_line(error, 300)}"
            store.record(cell, WorkerDied(words))
            return []
        warnings.warn(f"{cell.name}: a worker died of it, another tries again", RuntimeWarning, stacklevel=3)
        return [left]

    def _room(self, ray: Any) -> tuple[int, float, Sharing]:
        """Workers at a time, GPUs of each, and how many may count on the same memory.

        Raises:
            InputError: when there is no room for a worker, or not for all on a cluster that cannot grow.
        """
        resources, gpus = ray.cluster_resources(), self.gpus_per_worker
        if gpus is None:
            gpus = float(resources.get("GPU", 0) >= 1)
        sizes = {name: size for name, size in (("CPU", self.cpus_per_worker), ("GPU", gpus)) if size}
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        rooms = [min(int(each.get(name, 0) / sizes[name] + 1e-9) for name in sizes) for each in machines]
        room = sum(rooms)
        workers = self.workers or room
        if not room or (workers > room and self.address is None):
            n_cpus, n_gpus = (resources.get(name, 0) for name in ("CPU", "GPU"))
            raise InputError(
                f"ray: {workers or 1} workers of {self.cpus_per_worker} cores and {gpus:g} GPUs: there are "
                f"{n_cpus:g} cores and {n_gpus:g} GPUs, room for {room}; use fewer workers, cpus_per_worker "
                "or gpus_per_worker"
            )
        # Those that there is no room for yet may all come to one machine that joins.
        beside = min(workers, max(*rooms, workers - room))
        return workers, gpus, Sharing(beside, min(beside, int(1 / gpus + 1e-9)) if 0 < gpus < 1 else 1)


def run_cells(
    store: ResultFolder, place: str, threads: int, sharing: Sharing, group: Sequence[Cell]
) -> list[tuple[type[Warning], str]]:
    """A task: ``run_group`` in the folder that relative paths start from; the warnings meanwhile."""
    with contextlib.suppress(OSError):  # elsewhere a relative path fails, in the cell that has it
        os.chdir(place)
    torch.set_num_threads(threads)
    with sharing.of_memory(), warnings.catch_warnings(record=True) as caught:
        for _ in run_group(group, store):
            pass
    return [(each.category, str(each.message)) for each in caught]


def _finish(cell: Cell, store: ResultFolder) -> None:
    """Put shards together; what has left no trace was written on a disk that is not this one."""
    os.listdir(store.place)  # a disk over the network is looked at anew
    if cell.shard is not None:
        store.join(cell)
    elif not store.is_done(cell) and store.error(cell) is None:
        words = f"no result came to {store.place}: workers on other machines must see it"
        store.record(cell, InputError(words))


def _names(groups_of_cells: Iterable[Sequence[Cell]]) -> set[str]:
    return {cell.name for group in groups_of_cells for cell in group}


def _awaited(group: Sequence[Cell]) -> set[str]:
    """Names of the baselines that must be there before a group can begin."""
    return {cell.baseline.name for cell in group if cell.arm.needs_baseline} - {cell.name for cell in group}


@contextlib.contextmanager
def _connected(address: str | None, cores: int) -> Iterator[Any]:
    """The module ``ray``, connected for the time of the block.

    What this process is connected to already is used, and left as it is. A cluster at ``address`` is left
    running. Without an address one with room for ``cores`` starts on this machine, and is gone afterwards.

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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports to its makers only where somebody said so
    on_sigterm = signal.getsignal(signal.SIGTERM)
    # Ray puts sockets there, whose paths may have 107 characters.
    place = "/tmp" if os.name == "posix" else None
    with tempfile.TemporaryDirectory(prefix="mcr-lens-ray-", dir=place, ignore_cleanup_errors=True) as folder:
        try:
            _start(ray, address, cores, folder)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)  # Ray has set one of its own
            yield ray
        finally:
            ray.shutdown()


def _start(ray: Any, address: str | None, cores: int, folder: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _STORE, "_temp_dir": folder}
        ray.init("local", num_cpus=cores, **own, **quiet)
        return
    try:
        if address != "auto":  # Ray itself tries for minutes, and ends the process
            host, port = address.rsplit(":", 1)
            socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
        ray.init(address, **quiet)
    except (OSError, OverflowError, ValueError) as error:
        raise InputError(
            f"address {address!r}: no Ray cluster answers there ({one_line(error, 200)}); use HOST:PORT, as "
            "ray start --head prints it, 'auto' on a machine of the cluster, or leave the address out"
        ) from error
