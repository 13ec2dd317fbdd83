"""What of a sweep is done, failed or left, from its folder alone."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mcr_lens.sweeps.cells import Cell, cells
from mcr_lens.sweeps.folder import ResultFolder
from mcr_lens.sweeps.grid import Grid

__all__ = ["status_of", "sweep_status"]


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
    return status_of(cells(grid), ResultFolder(out))


def status_of(listed: Sequence[Cell], folder: ResultFolder) -> pd.DataFrame:
    """The same of cells that have their names already."""
    return pd.DataFrame([_row(cell, folder) for cell in listed])


def _row(cell: Cell, folder: ResultFolder) -> dict[str, str]:
    state, message = "left", ""
    if folder.is_done(cell):
        state = "done"
    elif (error := folder.error(cell)) is not None:
        state, message = "failed", f"{error['error']}: {error['message']}"
    return {
        "model": cell.model.label,
        "revision": cell.revision or "",
        "prompts": cell.prompts.label,
        "arm": cell.arm.label,
        "state": state,
        "error": message,
        "file": folder.result_path(cell).name,
    }
