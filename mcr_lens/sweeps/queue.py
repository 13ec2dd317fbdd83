"""What of a sweep comes next, for workers that each keep one model: no engine, no clock, no process."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from mcr_lens.sweeps.cells import Cell, loading_key

__all__ = ["Task", "TaskQueue"]


@dataclass(frozen=True)
class Task:
    """One shard of a cell.

    Attributes:
        cell: by its number in the order of work.
        shard: which of the cell's shards.
    """

    cell: int
    shard: int


class TaskQueue:
    """The tasks of the cells that are left, in the order of work.

    A cell that needs its baseline waits until that is finished, one way or the other.
    """

    def __init__(self, cells: Sequence[Cell], shards: int) -> None:
        self._keys = [loading_key(cell) for cell in cells]
        number = {cell.name: i for i, cell in enumerate(cells)}
        self._baseline = [
            number.get(cell.baseline.name) if cell.arm.needs_baseline else None for cell in cells
        ]
        self._unfinished = set(range(len(cells)))
        self._waiting = [Task(i, part) for i in range(len(cells)) for part in range(shards)]

    @property
    def unfinished(self) -> Collection[int]:
        """The cells that are neither done nor failed."""
        return frozenset(self._unfinished)

    @property
    def can_begin(self) -> bool:
        """Whether there is a task that waits for nothing."""
        return any(self._baseline[task.cell] not in self._unfinished for task in self._waiting)

    def next(self, loaded: str | None, elsewhere: Iterable[str | None]) -> Task | None:
        """Take the task for a worker; ``None`` when there is none that could begin now.

        The first that its model serves; else the first of the model that the fewest of the others have.

        Args:
            loaded: the loading key of the worker's model.
            elsewhere: those of the other workers' models.
        """
        ready = [task for task in self._waiting if self._baseline[task.cell] not in self._unfinished]
        if not ready:
            return None
        count = Counter(elsewhere)

        def cost(task: Task) -> tuple[bool, int]:
            key = self._keys[task.cell]
            return key != loaded, count[key]

        chosen = min(ready, key=cost)  # the first of several
        self._waiting.remove(chosen)
        return chosen

    def again(self, task: Task) -> None:
        """Put a task back, before the others."""
        if task.cell in self._unfinished:
            self._waiting.insert(0, task)

    def finish(self, cell: int) -> None:
        """A cell is done or has failed: what is left of it is not to be done."""
        self._unfinished.discard(cell)
        self._waiting = [task for task in self._waiting if task.cell != cell]
