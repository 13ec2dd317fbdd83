"""``sweep``: the cells of a grid that are left, in groups that one loaded model serves."""

import contextlib
import gc
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from mcr_lens.errors import InputError
from mcr_lens.models import Model
from mcr_lens.not_finite import NotFiniteWarning
from mcr_lens.prompts import Prompts
from mcr_lens.sweeps.cells import Cell, cells, compute
from mcr_lens.sweeps.grid import Grid
from mcr_lens.sweeps.shards import shard, with_whole
from mcr_lens.sweeps.store import ResultFolder

__all__ = ["Engine", "engine_of", "groups", "run_group", "run_local", "sweep", "sweep_status"]

# Computes the cells that are not in the folder, records what fails, and shows its progress if asked.
Engine = Callable[[Sequence[Cell], ResultFolder, bool], None]


def sweep(
    grid: Grid, out: str | Path, engine: str | Engine = "local", *, progress: bool = True
) -> pd.DataFrame:
    """Measure every cell of a grid, one file each, and go on where an earlier run was stopped.

    A result is there only when it is complete, and is never computed again; a cell that fails leaves
    ``<name>.error.json`` with its traceback, the rest goes on, and the next run tries it again. Cells with
    other settings have other names, so that results of two grids can share a folder and are not mixed.

    Args:
        grid: from ``read_grid``, or made in Python.
        out: folder for the results (``mcr_lens.Profile.load`` reads them) and the records of failures.
        engine: ``"local"``: one after another in this process; ``"ray"``: by several workers, as many as
            this machine has cores or GPUs; ``RayEngine(workers=4, ...)`` says how many, on which cluster,
            and in how many shards the prompts are cut.
        progress: show progress bars on a terminal or in a notebook.

    Returns:
        What ``sweep_status`` says afterwards.

    Raises:
        InputError: for an engine that does not exist or is not installed, a folder that cannot be written,
            or a file of prompts that is not there. What goes wrong in a cell is recorded, not raised.

    Example:
        >>> import tempfile
        >>> from mcr_lens.sweeps import Grid, SweepModel, SweepPrompts
        >>> grid = Grid(models=[SweepModel("tiny")], prompts=[SweepPrompts("made-up", n=2)])
        >>> with tempfile.TemporaryDirectory() as out:
        ...     sweep(grid, out, progress=False).state.tolist()
        ['done']
    """
    run = engine_of(engine)
    listed, store = cells(grid), ResultFolder(out)
    store.prepare(listed)
    with _sigterm_as_interrupt():
        run(listed, store, progress)
        store.clean(listed)
    # Of the names that they had when it began: a file may be another one by now.
    return store.table(listed)


def sweep_status(grid: Grid, out: str | Path) -> pd.DataFrame:
    """A row a cell, in the order of work; nothing is loaded but the records of failures.

    Returns:
        Columns ``model``, ``revision`` (empty for the default one), ``prompts``, ``arm``; ``state``:
        ``"done"``, ``"failed"`` (tried again by the next run) or ``"left"``; ``error``: what it failed of;
        ``file``: of the profile, there or not.

    Raises:
        InputError: when a file of prompts is missing, without which a cell has no name.

    Example:
        >>> from mcr_lens.sweeps import Grid, SweepModel, SweepPrompts
        >>> grid = Grid(models=[SweepModel("tiny")], prompts=[SweepPrompts("made-up")])
        >>> sweep_status(grid, "no such folder").state.tolist()
        ['left']
    """
    return ResultFolder(out).table(cells(grid))


def engine_of(engine: str | Engine) -> Engine:
    """The engine of a name, or the one that is given.

    Raises:
        InputError: for a name that there is none of, or one that is not installed.
    """
    from mcr_lens.sweeps.ray_engine import RayEngine

    if callable(engine):
        return engine
    if engine not in ("local", "ray"):
        raise InputError(f"engine {engine!r}: use 'local' or 'ray'")
    return run_local if engine == "local" else RayEngine()


def run_local(listed: Sequence[Cell], store: ResultFolder, progress: bool) -> None:
    """The local engine: group after group in this process, one model in memory at a time."""
    left = [cell for cell in listed if not store.is_done(cell)]
    done = len(listed) - len(left)
    quiet = None if progress else True
    with tqdm(total=len(listed), initial=done, desc="sweep", unit="cell", disable=quiet) as bar:
        for group in groups(left, 1):
            bar.set_postfix_str(group[0].model.label)
            for _ in run_group(group, store, progress):
                bar.update()


def groups(left: Sequence[Cell], workers: int) -> list[list[Cell]]:
    """Cells that one loaded model serves, cut so that there is a group for every worker.

    The baselines that others wait for come before them in a group, or in a group of their own: of a model
    that is cut, and of shards, which are whole only when all are there.
    """
    limit = math.ceil(len(left) / workers)
    of_models: dict[str, list[Cell]] = {}
    for cell in left:
        of_models.setdefault(cell.loading_key, []).append(cell)
    cut = []
    for of_one_model in of_models.values():
        if len(of_one_model) <= limit and of_one_model[0].shard is None:
            cut.append(of_one_model)
            continue
        names = {cell.baseline.name for cell in of_one_model if cell.arm.needs_baseline}
        first = [cell for cell in of_one_model if cell.name in names]
        rest = [cell for cell in of_one_model if cell.name not in names]
        for part in filter(None, (first, rest)):
            size = math.ceil(len(part) / math.ceil(len(part) / limit))
            cut += [part[start : start + size] for start in range(0, len(part), size)]
    return cut


def run_group(group: Sequence[Cell], store: ResultFolder, progress: bool = False) -> Iterator[Cell]:
    """Compute cells or shards of one model, which is loaded once; each comes when it is done or has failed.

    What is there already is not computed again: another process may work on the same folder.
    """
    left = [cell for cell in group if not store.is_done(cell)]
    model: Model = None
    with store.recording(left):
        model = left[0].load_model() if left else None
    source: Any = None
    prompts: Any = None
    for cell in group:
        if model is not None and not store.is_done(cell):
            with store.recording([cell]):
                if cell.prompts != source:
                    prompts, source = cell.load_prompts(model), cell.prompts
                _measure(cell, model, prompts, store, progress)
        yield cell
    # Hooks and modules refer to each other: only the collector frees them.
    del model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _measure(cell: Cell, model: Model, prompts: Prompts, store: ResultFolder, progress: bool) -> None:
    """One cell or shard, into the folder; a shard without a prompt leaves nothing."""
    part = prompts if cell.shard is None else shard(prompts, *cell.shard)
    if part is None:
        return
    cell.check_unchanged()  # before the work, and again before it is saved
    needs = cell.arm.needs_baseline and store.is_done(cell.baseline)
    baseline = store.result(cell.baseline) if needs else None
    with warnings.catch_warnings():
        if cell.shard is not None:  # only the whole knows which prompt is broken
            warnings.simplefilter("ignore", NotFiniteWarning)
        result = compute(cell, model, part, baseline, progress)
    store.save(cell, result if cell.shard is None else with_whole(result, prompts))


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, with exit code 143; a handler of the user's own stays."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before != signal.SIG_DFL:
        yield
        return
    signals = []

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the end
        signals.append(number)
        raise KeyboardInterrupt  # what Ray lets through, too

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        # While Ray starts it has a handler of its own, which exits with the number of the signal.
        if signals or (isinstance(error, SystemExit) and error.code == signal.SIGTERM):
            raise SystemExit(128 + signal.SIGTERM) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
