"""The folder of a sweep: a file a cell, that is there only when it is complete; nothing else is kept."""

import contextlib
import json
import os
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mcr_lens.errors import InputError, one_line
from mcr_lens.not_finite import NotFiniteWarning, not_finite_note
from mcr_lens.results import Profile, check_place
from mcr_lens.sweeps.cells import Cell
from mcr_lens.sweeps.shards import merged
from mcr_lens.validate import plain_path

__all__ = ["ResultFolder"]


class ResultFolder:
    """Where the results of a sweep are, and nothing else about them is kept anywhere.

    Everything appears under its name by a rename of a file that is complete and on the disk, so any number
    of processes may write into one folder: at worst a cell is computed twice, and the same result put in
    the same place.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = plain_path(place)

    def prepare(self, cells: Sequence[Cell]) -> None:
        """Make the folder.

        Raises:
            InputError: when it cannot be written, or when a cell has no name: then nothing is made.
        """
        for cell in cells:
            self.result_path(cell)
        check_place(self.place / "cell.nc")
        self.place.mkdir(parents=True, exist_ok=True)

    def clean(self, cells: Sequence[Cell]) -> None:
        """Remove the shards of cells that have ended, and what killed writers left of them."""
        for cell in cells:
            for path in self.place.glob(f".{cell.name}.*"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def result_path(self, cell: Cell) -> Path:
        """Of the cell's or shard's profile, there or not."""
        part = "" if cell.shard is None else ".{}-of-{}".format(*cell.shard)
        return self.place / f"{'.' if part else ''}{cell.name}{part}.nc"

    def error_path(self, cell: Cell) -> Path:
        """Of the record of the cell's or shard's failure, there or not."""
        path = self.result_path(cell)
        return path.with_name(path.name.removesuffix(".nc") + ".error.json")

    def is_done(self, cell: Cell) -> bool:
        """Whether the profile of the cell, or that of the shard, is there."""
        return self.result_path(cell).is_file() or self.result_path(cell.whole).is_file()

    def error(self, cell: Cell) -> dict[str, Any] | None:
        """What was recorded of the cell's last failure: ``error``, ``message``, ``traceback``, ``cell``.

        Of a record that somebody else has damaged no more than that.
        """
        path = self.error_path(cell)
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            return {"error": about["error"], "message": about["message"], **about}
        except FileNotFoundError:
            return None
        except Exception:  # whatever somebody else has written there
            return {"error": "unknown", "message": f"{path.name} is no record of ours; delete it"}

    def result(self, cell: Cell) -> Profile:
        """The cell's profile.

        Raises:
            InputError: when it is not there or cannot be read.
        """
        try:
            return Profile.load(self.result_path(cell))
        except InputError as error:
            raise InputError(f"{error}; delete it, and the next run computes it again") from error

    def save(self, cell: Cell, result: Profile) -> None:
        """Put a profile in its place; an earlier failure is forgotten.

        Raises:
            InputError: when the files that it was made of have changed since the cell got its name.
        """
        cell.check_unchanged()
        with self._put(cell, self.result_path(cell)) as temporary:
            result.save(temporary)
        self.error_path(cell).unlink(missing_ok=True)

    def join(self, shard: Cell) -> None:
        """Put a cell together of its shards, all of which have ended; it has failed where one of them has."""
        cell, (_, count) = shard.whole, shard.shard or (0, 1)
        shards = cell.shards(count)
        errors = [self.error_path(each) for each in shards if self.error_path(each).is_file()]
        if errors:
            os.replace(errors[0], self.error_path(cell))
        else:
            with self.recording([cell]):
                # One without a prompt left nothing.
                whole = merged([self.result(each) for each in shards if self.result_path(each).is_file()])
                if note := not_finite_note(whole.data, whole.data.attrs["dtype"]):
                    warnings.warn(f"{cell.name}: {note}", NotFiniteWarning, stacklevel=2)
                self.save(cell, whole)
        self.clean([cell])

    @contextlib.contextmanager
    def recording(self, cells: Sequence[Cell]) -> Iterator[None]:
        """Around what these cells need: when it fails, that is recorded of each, and the rest goes on."""
        try:
            yield
        except Exception as error:  # a model's code, its loader and the disk raise what they like
            for cell in cells:
                self.record(cell, error)

    def record(self, cell: Cell, error: Exception) -> None:
        """Put down why a cell has failed, unless somebody else has its result meanwhile."""
        if self.is_done(cell):
            return
        about = {
            "error": type(error).__name__,
            "message": one_line(error),
            "traceback": "".join(traceback.format_exception(error)),
            "cell": cell.settings(),
        }
        # Another sweep of the same cell that has ended, and recorded it, may take the temporary file away.
        with contextlib.suppress(FileNotFoundError), self._put(cell, self.error_path(cell)) as temporary:
            temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @contextlib.contextmanager
    def _put(self, cell: Cell, path: Path) -> Iterator[Path]:
        """A place for a file that is moved to ``path`` when it is complete.

        The hidden folder around it has the name of the cell, with which ``clean`` finds what a kill has left.
        """
        with tempfile.TemporaryDirectory(
            prefix=f".{cell.name}.", dir=self.place, ignore_cleanup_errors=True
        ) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            os.replace(temporary, path)

    def table(self, cells: Sequence[Cell]) -> pd.DataFrame:
        """A row a cell: what of it is done, failed or left; see ``sweep_status``."""
        rows = []
        for cell in cells:
            error = None if self.is_done(cell) else self.error(cell)
            rows.append(
                {
                    "model": cell.model.label,
                    "revision": cell.revision or "",
                    "prompts": cell.prompts.label,
                    "arm": cell.arm.label,
                    "state": "done" if self.is_done(cell) else "failed" if error else "left",
                    "error": f"{error['error']}: {error['message']}" if error else "",
                    "file": self.result_path(cell).name,
                }
            )
        return pd.DataFrame(rows)
