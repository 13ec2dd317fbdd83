"""The folder of a sweep: a file a cell, that is there only when it is complete."""

import json
import os
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mcr_lens.errors import InputError, one_line
from mcr_lens.paths import plain_path
from mcr_lens.results import Profile, check_place
from mcr_lens.sweeps.cells import Cell
from mcr_lens.sweeps.writers import remove_leftovers, temporary_folder

__all__ = ["ERROR_SUFFIX", "SUFFIX", "Failure", "ResultFolder"]

SUFFIX = ".nc"
ERROR_SUFFIX = ".error.json"


@dataclass(frozen=True)
class Failure:
    """What is kept of an exception: it may have been raised in another process, where its objects stay."""

    error: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """An exception in words."""
        told = "".join(traceback.format_exception(error))
        return cls(type(error).__name__, one_line(error), told)


class ResultFolder:
    """Where the results of a sweep are, and nothing else about them is kept anywhere.

    Everything appears under its name by a rename of a file that is complete and on the disk, so any number
    of processes may write into one folder: at worst a cell is computed twice, and the same result put in
    the same place.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = plain_path(place)

    def prepare(self, cells: Sequence[Cell]) -> None:
        """Make the folder, and take away what killed writers left in it.

        Raises:
            InputError: when it cannot be written, or when a cell has no name: then nothing is made.
        """
        for cell in cells:
            check_place(self.result_path(cell))
        try:
            self.place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.place}: cannot be made ({error.strerror}); choose another") from error
        remove_leftovers(self.place)
        self._remove_old_records(cells)

    def result_path(self, cell: Cell) -> Path:
        """Of the cell's profile, there or not."""
        return self.place / f"{cell.name}{SUFFIX}"

    def error_path(self, cell: Cell) -> Path:
        """Of the record of the cell's failure, there or not."""
        return self.place / f"{cell.name}{ERROR_SUFFIX}"

    def is_done(self, cell: Cell) -> bool:
        """Whether the cell's profile is there."""
        return self.result_path(cell).is_file()

    def error(self, cell: Cell) -> dict[str, Any] | None:
        """What was recorded of the cell's last failure: ``error``, ``message``, ``traceback``, ``cell``.

        Of a record that somebody else has damaged no more than that.
        """
        path = self.error_path(cell)
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            about = None
        if isinstance(about, dict) and {"error", "message"} <= set(about):
            return about
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

    def save(self, cell: Cell, measured: Profile) -> None:
        """Put a profile in its place; an earlier failure is forgotten.

        Raises:
            InputError: when the files that it was made of have changed since the cell got its name.
        """
        cell.check_unchanged()
        with temporary_folder(self.place) as made:
            _put(measured.save(made / self.result_path(cell).name), self.place)
        self._forget_error(cell)

    def baseline(self, cell: Cell) -> Profile | None:
        """What the cell's arm needs of the untouched model; ``None`` when that is nothing.

        Raises:
            InputError: when it is needed and not there.
        """
        if not cell.arm.needs_baseline:
            return None
        if not self.is_done(cell.baseline):
            raise InputError(
                f"arm {cell.arm.label!r} needs its baseline, which has failed: "
                f"see {self.error_path(cell.baseline).name}"
            )
        return self.result(cell.baseline)

    def record(self, cell: Cell, error: Exception | Failure) -> None:
        """Put down why a cell has failed, unless somebody else has its result meanwhile."""
        if self.is_done(cell):
            return
        failure = error if isinstance(error, Failure) else Failure.of(error)
        about = {**asdict(failure), "cell": cell.settings(), "sources": _sources(cell)}
        with temporary_folder(self.place) as made:
            written = made / self.error_path(cell).name
            written.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            _put(written, self.place)

    def _remove_old_records(self, cells: Sequence[Cell]) -> None:
        """Records of failures of cells that are done, or of files that are others now: a mended model."""
        current: dict[str, list[Cell]] = {}
        for cell in cells:
            current.setdefault(json.dumps(cell.settings(), sort_keys=True), []).append(cell)
        for path in self.place.glob(f"*{ERROR_SUFFIX}"):
            try:
                about = json.loads(path.read_text(encoding="utf-8"))
                settings, sources = json.dumps(about["cell"], sort_keys=True), about.get("sources")
            except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
                continue  # not a record of ours, or gone meanwhile
            for cell in current.get(settings, ()):
                # Another grid may have settings that are the same, for files elsewhere.
                is_ours = sources in (None, _sources(cell))
                if is_ours and (self.is_done(cell) or path != self.error_path(cell)):
                    path.unlink(missing_ok=True)

    def _forget_error(self, cell: Cell) -> None:
        self.error_path(cell).unlink(missing_ok=True)


def _sources(cell: Cell) -> list[str]:
    return [cell.model.source, cell.prompts.source]


def _put(path: Path, folder: Path) -> None:
    """Rename a complete file into a folder, once its content is on the disk."""
    with path.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(path, folder / path.name)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
