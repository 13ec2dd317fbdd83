"""Many profiles: models x revisions x prompts x arms, a file each, resumable.

A grid is read from TOML (``read_grid``) or made of its tables (``Grid``); an engine computes the cells
that are not in the folder (``sweep``), and the folder alone says how far it is (``sweep_status``). An engine
is a function of cells, a ``ResultFolder`` and whether to show progress; ``compute`` does a cell.
"""

from mcr_lens.sweeps.arms import SweepArm
from mcr_lens.sweeps.cells import Cell, cells, compute
from mcr_lens.sweeps.grid import Grid, SweepModel, SweepPrompts
from mcr_lens.sweeps.ray_engine import RayEngine
from mcr_lens.sweeps.run import sweep, sweep_status
from mcr_lens.sweeps.store import ResultFolder
from mcr_lens.sweeps.toml import read_grid

__all__ = [
    "Cell",
    "Grid",
    "RayEngine",
    "ResultFolder",
    "SweepArm",
    "SweepModel",
    "SweepPrompts",
    "cells",
    "compute",
    "read_grid",
    "sweep",
    "sweep_status",
]
