"""The driver of a sweep on Ray: hands tasks to workers, replaces those that die, writes what comes back."""

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

from mcr_lens.errors import InputError, one_line
from mcr_lens.not_finite import NotFiniteWarning, not_finite_note
from mcr_lens.results import Profile
from mcr_lens.sweeps.cells import Cell, loading_key, prompts_key
from mcr_lens.sweeps.crew import Crew, Member
from mcr_lens.sweeps.folder import Failure, ResultFolder
from mcr_lens.sweeps.progress import SweepProgress
from mcr_lens.sweeps.queue import Task, TaskQueue
from mcr_lens.sweeps.shards import merged
from mcr_lens.sweeps.worker import Failed, Measured

__all__ = ["Dispatcher"]

_SECONDS_A_LOOK = 0.5


class Dispatcher:
    """One sweep's cells through one crew.

    Args:
        ray: the module, connected.
        cells: those that are left.
        shards: in which the prompts of each are cut.
    """

    def __init__(
        self,
        ray: Any,
        cells: Sequence[Cell],
        folder: ResultFolder,
        crew: Crew,
        shards: int,
        progress: SweepProgress,
    ) -> None:
        self._ray, self._cells, self._folder, self._crew = ray, cells, folder, crew
        self._shards, self._progress = shards, progress
        self._queue = TaskQueue(cells, shards)
        self._parts: dict[int, dict[int, Measured]] = {}
        self._lost: dict[Task, int] = {}
        self._failed_starts = 0
        self._baselines: dict[str, Any] = {}
        self._members: list[Member] = []
        self._calls: dict[Any, Member] = {}
        self._new_worker = crew.new_worker(ray)

    def run(self) -> None:
        """Until every cell is done or has failed; no worker is left, however it ends."""
        try:
            for _ in range(self._crew.workers):
                self._hire()
            while self._queue.unfinished:
                for member in self._members:
                    if member.is_idle:
                        self._assign(member)
                if self._calls:
                    self._wait()
        finally:
            for member in self._members:
                self._ray.kill(member.actor)

    def _hire(self) -> None:
        member = Member(self._new_worker())
        self._members.append(member)
        # Where there is no room yet it answers later; nobody waits for it.
        self._calls[member.actor.ready.remote()] = member

    def _assign(self, member: Member) -> None:
        """Give a worker the next task, if one can begin; one that has rested is first asked whether it lives.

        Else its death would be laid to the task that it never saw.
        """
        if member.has_rested:
            if self._queue.can_begin:
                member.has_rested, member.is_ready = False, False
                self._calls[member.actor.ready.remote()] = member
            return
        others = [other.loaded for other in self._members if other is not member]
        while (task := self._queue.next(member.loaded, others)) is not None:
            cell = self._cells[task.cell]
            # Another process may work on the same folder.
            if self._folder.is_done(cell):
                self._finish(task.cell)
                continue
            try:
                cell.check_unchanged()  # before the work, and again before it is saved
                baseline = self._baseline(cell)
            except Exception as error:
                self._fail(task.cell, Failure.of(error))
                continue
            member.task, member.loaded = task, loading_key(cell)
            self._progress.say(cell.name)
            call = member.actor.run.remote(cell, task.shard, self._shards, baseline)
            self._calls[call] = member
            return
        member.has_rested = True

    def _baseline(self, cell: Cell) -> Any:
        """The cell's baseline in Ray's store, put there once."""
        if not cell.arm.needs_baseline:
            return None
        name = cell.baseline.name
        if name not in self._baselines:
            self._baselines = {name: self._ray.put(self._folder.baseline(cell))}
        return self._baselines[name]

    def _wait(self) -> None:
        look = _SECONDS_A_LOOK if self._progress.is_shown else None
        answered, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=look)
        for call in answered:
            self._receive(call, self._calls.pop(call))
        if self._progress.is_shown:
            self._progress.running(self._begun())

    def _receive(self, call: Any, member: Member) -> None:
        task = member.task
        try:
            answer = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:  # such as a result that cannot be sent
            member.task = None
            if task is None:
                raise
            if task.cell in self._queue.unfinished:
                self._fail(task.cell, Failure(type(error).__name__, one_line(error), str(error)))
            return
        except self._ray.exceptions.RayError as error:
            self._replace(member, error)
            return
        member.task = None
        if task is None:
            self._welcome(member, answer)
        elif task.cell in self._queue.unfinished:
            if isinstance(answer, Failed):
                self._fail_all(task.cell, answer)
            else:
                self._progress.learned(task.cell, answer.n_prompts)
                self._keep(task, answer)

    def _welcome(self, member: Member, version: str) -> None:
        import mcr_lens

        if version != mcr_lens.__version__:
            raise RuntimeError(
                f"a worker has mcr-lens {version}, this process {mcr_lens.__version__}: install one version"
            )
        member.is_ready = member.has_started = True
        self._failed_starts = 0  # only starts that fail one after the other tell that none can

    def _keep(self, task: Task, answer: Measured) -> None:
        """A shard is there; with the last one the cell is."""
        cell, parts = self._cells[task.cell], self._parts.setdefault(task.cell, {})
        parts[task.shard] = answer
        for kind, words in answer.warnings:
            warnings.warn(words, kind, stacklevel=2)
        if len(parts) < self._shards:
            return
        try:
            self._folder.save(cell, self._whole(cell, [parts[shard] for shard in range(self._shards)]))
        except Exception as error:  # the disk, or shards that do not fit together
            self._fail(task.cell, Failure.of(error))
        else:
            self._finish(task.cell)

    def _whole(self, cell: Cell, parts: Sequence[Measured]) -> Profile:
        """One profile of the parts, with what only all of them together can tell."""
        told = parts[0].prompts
        if any(part.prompts != told for part in parts):
            raise InputError(
                "the workers read different prompts: has the file changed, or is it another one?"
            )
        whole = merged([part.profile for part in parts if part.profile is not None], told)
        if note := not_finite_note(whole.data, whole.data.attrs["dtype"]):
            warnings.warn(f"{cell.name}: {note}", NotFiniteWarning, stacklevel=2)
        return whole

    def _fail_all(self, cell: int, answer: Failed) -> None:
        """A cell has failed; of a model or prompts that cannot be loaded those that wait for them, too."""
        self._fail(cell, answer.failure)
        if answer.at == "cell":
            return
        of_it = _group(self._cells[cell], answer)
        running = {member.task.cell for member in self._members if member.task is not None}
        for other in sorted(set(self._queue.unfinished) - running):
            if _group(self._cells[other], answer) == of_it:
                self._fail(other, answer.failure)

    def _fail(self, cell: int, failure: Failure) -> None:
        self._folder.record(self._cells[cell], failure)
        self._finish(cell, failed=True)

    def _finish(self, cell: int, failed: bool = False) -> None:
        self._queue.finish(cell)
        self._parts.pop(cell, None)
        self._progress.finished(cell, failed)

    def _replace(self, member: Member, error: Exception) -> None:
        """A worker is gone: another takes its place, and its task, unless too many have died of it."""
        self._members.remove(member)
        self._ray.kill(member.actor)  # it may only be out of reach
        if not member.has_started:
            self._failed_starts += 1
            if getattr(error, "actor_init_failed", False) or self._failed_starts > self._crew.retries:
                raise RuntimeError(f"a worker could not start: {one_line(error, 500)}") from error
        elif member.task is not None and member.task.cell in self._queue.unfinished:
            task = member.task
            self._lost[task] = self._lost.get(task, 0) + 1
            if self._lost[task] > self._crew.retries:
                self._fail(task.cell, _of_lost(self._lost[task], error))
            else:
                name = self._cells[task.cell].name
                warnings.warn(
                    f"{name}: a worker died of it, another tries again", RuntimeWarning, stacklevel=2
                )
                self._queue.again(task)
        if self._queue.unfinished:
            self._hire()

    def _begun(self) -> dict[int, int]:
        """Prompts of the cells that are not finished: of their shards that are there, and those that run."""
        begun = {
            cell: sum(
                each.profile.data.sizes["prompt"] for each in parts.values() if each.profile is not None
            )
            for cell, parts in self._parts.items()
        }
        asked = {
            member.actor.begun.remote(): member.task.cell
            for member in self._members
            if member.task is not None
        }
        answered, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS_A_LOOK)
        for call in answered:
            with contextlib.suppress(
                self._ray.exceptions.RayError
            ):  # its task will tell what has become of it
                cell = asked[call]
                begun[cell] = begun.get(cell, 0) + self._ray.get(call)
        return begun


def _group(cell: Cell, answer: Failed) -> tuple[str, ...]:
    """What the cell has in common with those that need the same model, or the same prompts of it."""
    return (loading_key(cell), prompts_key(cell)) if answer.at == "prompts" else (loading_key(cell),)


def _of_lost(times: int, error: Exception) -> Failure:
    """What is known of a task that no worker survives: there is no traceback of a process that was killed."""
    message = f"{times} workers died of it, the last of: {one_line(error, 300)}"
    return Failure("WorkerDied", message, str(error))
