"""``sweep``: the cells of a grid that are left, by one of the engines."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from mcr_lens.errors import InputError
from mcr_lens.sweeps.cells import Cell, cells
from mcr_lens.sweeps.folder import ResultFolder
from mcr_lens.sweeps.grid import Grid
from mcr_lens.sweeps.local import run_local
from mcr_lens.sweeps.ray_engine import RayEngine
from mcr_lens.sweeps.status import status_of

__all__ = ["Engine", "engine_of", "sweep"]

# Computes the cells that are not in the folder, records what fails, and shows its progress if asked.
Engine = Callable[[Sequence[Cell], ResultFolder, bool], None]
_ENGINES: dict[str, Callable[[], Engine]] = {"local": lambda: run_local, "ray": RayEngine}


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
    listed, folder = cells(grid), ResultFolder(out)
    folder.prepare(listed)
    run(listed, folder, progress)
    # Of the names that they had when it began: a file may be another one by now.
    return status_of(listed, folder)


def engine_of(engine: str | Engine) -> Engine:
    """The engine of a name, or the one that is given.

    Raises:
        InputError: for a name that there is none of, or one that is not installed.
    """
    if callable(engine):
        return engine
    if engine not in _ENGINES:
        raise InputError(f"engine {engine!r}: use {' or '.join(map(repr, _ENGINES))}")
    return _ENGINES[engine]()
