"""The folder of a sweep: a file a cell, that is there only when it is complete; nothing else is kept."""

import contextlib
import json
import os
import shutil
import socket
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from mcr_lens.errors import InputError, one_line
from mcr_lens.not_finite import NotFiniteWarning, not_finite_note
from mcr_lens.paths import plain_path
from mcr_lens.results import Profile
from mcr_lens.sweeps.cells import Cell
from mcr_lens.sweeps.shards import merged

__all__ = ["ResultFolder"]

_RESULT, _ERROR = ".nc", ".error.json"
# What a writer's own folder is called.
_WRITER = f".mcr-lens-sweep.{socket.gethostname()}."


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
            self.result_path(cell)
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.place).close()
        except OSError as error:
            raise InputError(
                f"{self.place}: not a folder to write in ({error.strerror}); choose another"
            ) from error
        self.clean(())

    def clean(self, cells: Sequence[Cell]) -> None:
        """Remove the shards of these cells, and the folders of writers on this machine that are no more."""
        for path in self.place.glob(f"{_WRITER}*"):
            process = path.name.split(".")[-2]
            if process.isdecimal() and not _is_alive(int(process)):
                shutil.rmtree(path, ignore_errors=True)
        for cell in cells:
            for path in self.place.glob(f".{cell.name}.*"):
                path.unlink(missing_ok=True)

    def result_path(self, cell: Cell) -> Path:
        """Of the cell's or shard's profile, there or not."""
        return self._path(cell, _RESULT)

    def error_path(self, cell: Cell) -> Path:
        """Of the record of the cell's or shard's failure, there or not."""
        return self._path(cell, _ERROR)

    def _path(self, cell: Cell, suffix: str) -> Path:
        if cell.shard is None:
            return self.place / f"{cell.name}{suffix}"
        index, count = cell.shard
        return self.place / f".{cell.name}.{index}-of-{count}{suffix}"

    def is_done(self, cell: Cell) -> bool:
        """Whether the profile of the cell, or that of the shard, is there."""
        return self.result_path(cell).is_file() or self.result_path(cell.whole).is_file()

    def error(self, cell: Cell) -> dict[str, Any] | None:
        """What was recorded of the cell's last failure: ``error``, ``message``, ``traceback``, ``cell``.

        Of a record that somebody else has damaged no more than that.
        """
        path = self.error_path(cell)
        if not path.is_file():
            return None
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            return {"error": about["error"], "message": about["message"], **about}
        except (OSError, ValueError, RecursionError, LookupError, TypeError):
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

    def save(self, cell: Cell, measured: Profile) -> None:
        """Put a profile in its place; an earlier failure is forgotten.

        Raises:
            InputError: when the files that it was made of have changed since the cell got its name.
        """
        cell.check_unchanged()
        with self._put(self.result_path(cell)) as temporary:
            measured.save(temporary)
        self.error_path(cell).unlink(missing_ok=True)

    def join(self, shard: Cell) -> None:
        """Put a cell together of its shards, all of which have ended; it has failed where one of them has."""
        cell, (_, count) = shard.whole, shard.shard or (0, 1)
        shards = cell.shards(count)
        failed = [self.error_path(each) for each in shards if self.error_path(each).is_file()]
        if failed:
            os.replace(failed[0], self.error_path(cell))
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
        with self._put(self.error_path(cell)) as temporary:
            temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @contextlib.contextmanager
    def _put(self, path: Path) -> Iterator[Path]:
        """A place for a file that is moved to ``path`` when it is complete.

        The hidden folder around it names machine and process, so that the next sweep knows whether its
        writer is alive.
        """
        with tempfile.TemporaryDirectory(prefix=f"{_WRITER}{os.getpid()}.", dir=self.place) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            os.replace(temporary, path)

    def table(self, cells: Sequence[Cell]) -> pd.DataFrame:
        """A row a cell: what of it is done, failed or left."""
        return pd.DataFrame([self._row(cell) for cell in cells])

    def _row(self, cell: Cell) -> dict[str, str]:
        state, message = "left", ""
        if self.is_done(cell):
            state = "done"
        elif (error := self.error(cell)) is not None:
            state, message = "failed", f"{error['error']}: {error['message']}"
        return {
            "model": cell.model.label,
            "revision": cell.revision or "",
            "prompts": cell.prompts.label,
            "arm": cell.arm.label,
            "state": state,
            "error": message,
            "file": self.result_path(cell).name,
        }


def _is_alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
