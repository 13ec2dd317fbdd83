"""The Ray engine: cells and shards of cells on several workers, here or on a cluster."""

import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcr_lens.errors import InputError
from mcr_lens.sweeps.cells import Cell
from mcr_lens.sweeps.fields import check_fields
from mcr_lens.sweeps.folder import ResultFolder
from mcr_lens.validate import is_whole

if TYPE_CHECKING:
    from mcr_lens.sweeps.crew import Crew

__all__ = ["RayEngine"]


@dataclass(frozen=True)
class RayEngine:
    """``engine=RayEngine(...)`` of ``sweep``; ``engine="ray"`` is the one with no settings.

    Each worker is a process that keeps one model. It is given cells, or shards of cells, and first those of
    the model that it has. The process that calls ``sweep`` writes the results, so the workers need no disk
    of theirs; they read models and prompts themselves, from the same paths.

    Attributes:
        workers: how many at a time; as many as there is room for when left out.
        address: of a cluster that is running, ``"HOST:PORT"``, or ``"auto"`` on one of its machines. Left
            out, one of this machine's own is started, and ended with the sweep.
        cpus_per_worker: cores, and threads that PyTorch computes with.
        gpus_per_worker: a whole number, or less than 1 for workers that share one; 1 where the cluster has
            GPUs when left out, else 0.
        shards: parts in which the prompts of each cell are cut; left out, as many as give every worker a
            part of one, and no more. Parts are neighbouring prompts, and the profile put together of them
            is that of all prompts, to float error: names of files do not tell how many there were.
        retries: how often a task is given to another worker when one has died of it.

    Raises:
        InputError: for a number that cannot be, or when Ray is not installed.

    Example::

        mcr.sweep(grid, "results", RayEngine(workers=4, shards=2))
    """

    workers: int | None = None
    address: str | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: float | None = None
    shards: int | None = None
    retries: int = 2

    def __post_init__(self) -> None:
        check_fields(self, "ray")
        for name, least in (("workers", 1), ("cpus_per_worker", 1), ("shards", 1), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and not is_whole(value, least):
                raise InputError(f"ray: {name} = {value}: use a whole number from {least}")
        gpus = self.gpus_per_worker
        if gpus is not None and not (0 <= gpus <= 1 or (gpus > 1 and float(gpus).is_integer())):
            raise InputError(f"ray: gpus_per_worker = {gpus}: use a whole number, or one from 0 to 1")
        if importlib.util.find_spec("ray") is None:
            raise InputError('the ray engine needs Ray: pip install ".[ray]"')

    def __call__(self, cells: Sequence[Cell], folder: ResultFolder, progress: bool) -> None:
        """Compute the cells that are not in the folder; failures are recorded there, and the rest goes on."""
        from mcr_lens.sweeps.cluster import connected, remove_left_behind
        from mcr_lens.sweeps.dispatch import Dispatcher
        from mcr_lens.sweeps.progress import SweepProgress

        left = [cell for cell in cells if not folder.is_done(cell)]
        if not left:
            remove_left_behind()
            return
        with connected(self.address, self._places()) as ray:
            crew = self._crew(ray)
            # Of all cells, not of those left: a sweep that goes on cuts as it did before.
            shards = self.shards or math.ceil(crew.workers / len(cells))
            with SweepProgress(left, len(cells) - len(left), progress) as shown:
                Dispatcher(ray, left, folder, crew, shards, shown).run()

    def _places(self) -> int:
        """Cores of a cluster of this machine's own."""
        if self.workers is not None:
            return self.workers * self.cpus_per_worker
        # Those that a queueing system has given to this process, where the system tells.
        given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(given, self.cpus_per_worker)

    def _crew(self, ray: Any) -> "Crew":
        """What the settings come to on this cluster.

        Raises:
            InputError: when there is no room for a worker, or not for all on a cluster that cannot grow.
        """
        from mcr_lens.sweeps.cluster import rooms_by_machine
        from mcr_lens.sweeps.crew import Crew

        gpus = self.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
        rooms = rooms_by_machine(ray, self.cpus_per_worker, gpus)
        room = sum(rooms)
        workers = self.workers or room
        if not room or (workers > room and self.address is None):
            has = ray.cluster_resources()
            raise InputError(
                f"ray: {workers or 1} workers of {self.cpus_per_worker} cores and {gpus:g} GPUs: there are "
                f"{has.get('CPU', 0):g} cores and {has.get('GPU', 0):g} GPUs, room for {room}; use fewer "
                "workers, cpus_per_worker or gpus_per_worker"
            )
        # Those that there is no room for yet may all come to one machine that joins.
        beside = min(workers, max(*rooms, workers - room))
        return Crew(workers, self.cpus_per_worker, gpus, self.retries, beside)
