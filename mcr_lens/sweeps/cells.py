"""A cell: one model at one revision, one set of prompts, one arm; its name, and how it is computed."""

import glob
import hashlib
import json
import os
import re
import sys
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

from mcr_lens.engine import profile
from mcr_lens.errors import InputError, warnings_about
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.models import Model
from mcr_lens.prompts import Prompts
from mcr_lens.results import Profile
from mcr_lens.sweeps.arms import SweepArm
from mcr_lens.sweeps.grid import Grid, SweepModel, SweepPrompts
from mcr_lens.validate import plain_path

__all__ = ["Cell", "cells", "compute"]

# Part of every name: a new number when the same settings come to mean something else.
_MEANING = 1
_LABEL_LENGTH = 48
# Results may be put where the data are.
_RESULTS = (".nc", ".error.json")


@dataclass(frozen=True)
class Cell:
    """One profile of a sweep, not computed yet.

    Attributes:
        revision: one of the model's, or ``None`` for its default one.
        sink_position: as in the grid, like ``estimator``.
        shard: which part of the prompts, of how many; ``None`` for all of them.
    """

    model: SweepModel
    revision: str | None
    prompts: SweepPrompts
    arm: SweepArm
    sink_position: int = 0
    estimator: Estimator = Estimator()  # noqa: RUF009  (frozen)
    shard: tuple[int, int] | None = None

    # Under which name the settings stand in the attributes of the result.
    attribute: ClassVar[str] = "sweep"

    @cached_property
    def name(self) -> str:
        """Readable, safe in every file system, and different for different settings.

        The hash at the end is over everything in the grid that the cell is made of, the content of a file of
        prompts, and the sizes and times of the files in the folder of a model or a data set. Versions of
        packages are not in it: they stand in each result. Shards of a cell have its name.

        Raises:
            InputError: for a file of prompts that cannot be read.
        """
        at = "" if self.revision is None else f"@{_safe(self.revision)}"
        labels = [_safe(self.model.label) + at, _safe(self.prompts.label), _safe(self.arm.label)]
        try:
            text = json.dumps({**self.settings(), "files": _files(self)}, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"settings that are no plain values ({error}): use texts, numbers, lists"
            ) from error
        return "--".join([*labels, hashlib.sha256(text.encode()).hexdigest()[:12]])

    def check_unchanged(self) -> None:
        """Raise ``InputError`` where files are others by now than those that the name speaks of."""
        if replace(self).name != self.name:
            raise InputError(
                f"model {self.model.source} or prompts {self.prompts.source}: changed while the sweep was "
                "running, so that nobody knows what was measured; run it again when nothing writes there"
            )

    @cached_property
    def whole(self) -> "Cell":
        """The cell that a shard is of; of all others, itself."""
        return self if self.shard is None else replace(self, shard=None)

    def shards(self, count: int) -> list["Cell"]:
        """The cell in so many parts; itself for one."""
        return [self] if count == 1 else [replace(self, shard=(index, count)) for index in range(count)]

    @cached_property
    def baseline(self) -> "Cell":
        """The same prompts, all of them, with nothing done to the model."""
        return self.whole if self.arm.is_baseline else replace(self, arm=SweepArm(), shard=None)

    @cached_property
    def loading_key(self) -> str:
        """The same for cells that one loaded model serves."""
        model = replace(self.model, revisions=None, batch_size="auto", chunk=None, name=None)
        return json.dumps([asdict(model), self.revision], sort_keys=True)

    def load_model(self) -> Model:
        """The model at its revision; errors as ``load_model``."""
        return self.model.load(self.revision)

    def load_prompts(self, model: Model) -> Prompts:
        """All prompts of the set, in the model's tokens; errors as ``load_prompts``."""
        return self.prompts.load(model)

    def settings(self) -> dict[str, Any]:
        """All that the grid says of the cell, as plain values; kept in its result."""
        model = asdict(self.model)
        del model["revisions"]
        prompts = asdict(self.prompts)
        for table in (model, prompts):
            # Where a folder or file stands does not matter; what is in it does (see ``name``).
            table["source"] = _place(table["source"])
        return {
            "meaning": _MEANING,
            "model": model | {"revision": self.revision},
            "prompts": prompts,
            "arm": {name: value for name, value in asdict(self.arm).items() if value is not None},
            "sink_position": self.sink_position,
            "estimator": self.estimator.as_dict(),
        }


def cells(grid: Grid) -> list[Cell]:
    """Every cell of a grid, in the order of work: model by model, prompts by prompts, baselines first.

    Where an arm asks its baseline for something, the baseline is a cell whether the grid names it or not.
    """
    needs = any(arm.is_baseline or arm.needs_baseline for arm in grid.arms)
    arms = [SweepArm()] * needs + [arm for arm in grid.arms if not arm.is_baseline]
    return [
        Cell(model, revision, prompts, arm, grid.sink_position, grid.estimator)
        for model in grid.models
        for revision in model.revisions or (None,)
        for prompts in grid.prompts
        for arm in arms
    ]


def compute(
    cell: Cell,
    model: Model,
    prompts: Prompts,
    baseline: Profile | None = None,
    progress: bool = False,
) -> Profile:
    """The profile of a cell; its settings stand under ``sweep`` in the attributes.

    Args:
        prompts: all of the cell's, or those of its shard.
        baseline: of the same model and prompts; for arms with ``needs_baseline``.

    A warning begins with the cell's name, whichever engine computes it.

    Raises:
        InputError: as ``profile`` and ``SweepArm.hooks``.
    """
    hooks = cell.arm.hooks(baseline, cell.sink_position)
    with warnings_about(cell.name):
        result = profile(
            model,
            prompts,
            interventions=hooks,
            batch_size=cell.model.batch_size,
            chunk=cell.model.chunk,
            estimator=cell.estimator,
            sink_position=cell.sink_position,
            progress=progress,
        )
    result.data.attrs[cell.attribute] = cell.settings()
    return result


def _safe(label: str) -> str:
    """Letters, digits, ``._=,`` and single hyphens, so that ``--`` and ``@`` separate."""
    plain = re.sub(r"[^A-Za-z0-9._=,]+", "-", label).strip("-.")
    return plain[:_LABEL_LENGTH].strip("-.") or "x"


def _place(source: str) -> str:
    path = plain_path(source)
    return path.name if path.is_absolute() or os.path.exists(path) else source


def _files(cell: Cell) -> dict[str, Any]:
    """What decides the result and stands outside the grid."""
    files: dict[str, Any] = {}
    if cell.prompts.source == "library-code":
        files["python"] = list(sys.version_info[:2])
    if (path := cell.prompts.file) is not None:
        try:
            files["prompts"] = _hash(path, path.stat().st_size, path.stat().st_mtime_ns)
        except OSError as error:
            raise InputError(f"{path}: prompts that cannot be read ({error.strerror})") from error
    elif cell.prompts.folder is not None:
        files["prompts"] = _listing(cell.prompts.folder, "**/*")
    folder = plain_path(cell.model.source)
    if cell.model.source != "tiny" and os.path.isdir(folder):
        files["model"] = _listing(folder, "*")
    return files


@lru_cache
def _hash(path: Path, size: int, changed: int) -> str:
    """Of a file's content, read again when its size or time has changed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _listing(folder: Path, pattern: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times: weights are too large to be read for a name. Nothing hidden, and no results."""
    names = sorted(glob.glob(pattern, root_dir=folder, recursive=True))
    names = [name for name in names if not name.endswith(_RESULTS) and os.path.isfile(folder / name)]
    stats = [(name, os.stat(folder / name)) for name in names]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
