"""Who computes a sweep on Ray: how many workers of which size, and what the driver knows of each."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mcr_lens.models.memory import Sharing
from mcr_lens.sweeps.queue import Task
from mcr_lens.sweeps.worker import Worker

__all__ = ["Crew", "Member"]


@dataclass(frozen=True)
class Crew:
    """Workers, all alike.

    Attributes:
        workers: how many at a time.
        cpus: that each takes, and threads that it computes with.
        gpus: that each takes.
        retries: how often a task is given to another worker when one has died of it.
        beside: at most so many share a machine, and its memory.
    """

    workers: int
    cpus: int
    gpus: float
    retries: int
    beside: int = 1

    def new_worker(self, ray: Any) -> Callable[[], Any]:
        """What makes one, as a Ray actor."""
        actor_class = ray.remote(Worker).options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,  # a task, and questions how far it is
        )
        return partial(actor_class.remote, os.getcwd(), self.cpus, self.sharing)

    @property
    def sharing(self) -> Sharing:
        """How many may count on the same memory as a worker, itself included."""
        of_a_gpu = int(1 / self.gpus + 1e-9) if 0 < self.gpus < 1 else 1
        return Sharing(self.beside, min(self.beside, of_a_gpu))


@dataclass(eq=False)
class Member:
    """A worker, as the driver knows it.

    Attributes:
        task: what it computes.
        loaded: the loading key of the model that it has.
        is_ready: it has answered since it was last asked whether it lives.
        has_started: it has answered once.
        has_rested: there was no task for it, and nobody has heard of it since.
    """

    actor: Any
    task: Task | None = None
    loaded: str | None = None
    is_ready: bool = False
    has_started: bool = False
    has_rested: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether it could be given a task."""
        return self.is_ready and self.task is None
