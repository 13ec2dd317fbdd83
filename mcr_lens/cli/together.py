"""Several files in one folder, that appear together or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mcr_lens.errors import InputError

__all__ = ["appearing_together", "check_folder"]


def check_folder(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """See before a long run whether files of these names can be put into a folder; makes nothing.

    Raises:
        InputError: when they cannot, or when some are there and are not to be replaced.
    """
    from mcr_lens.results import check_place

    folder = folder.expanduser()
    for name in names:
        check_place(folder / name)
    there = [name for name in names if os.path.lexists(folder / name)]
    if there and not overwrite:
        raise InputError(
            f"{folder}: {', '.join(there)} already there; choose another folder, or replace with --overwrite"
        )


@contextlib.contextmanager
def appearing_together(folder: Path) -> Iterator[Path]:
    """A temporary folder for the block to write into; its files are moved to ``folder`` when it ends well.

    Files of the same names are replaced, others stay. If anything fails, everything is as it was.

    Raises:
        InputError: when the place cannot be written.
    """
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Inside the folder where there is one: only it need be writable, and it may be a disk of its own.
        beside = folder if folder.is_dir() else folder.parent
        temporary = Path(tempfile.mkdtemp(dir=beside, prefix=".", suffix=".part"))
        made = temporary / "new"
        made.mkdir()  # as readable as any other folder, which what mkdtemp makes is not
        yield made
        _move(made, folder, aside=temporary / "old")
    except (OSError, InputError) as error:
        cause = error.__cause__ if isinstance(error, InputError) else error
        if not isinstance(cause, OSError):
            raise
        reason = cause.strerror or cause
        raise InputError(f"{folder}: cannot be written ({reason}); choose another place") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _move(made: Path, folder: Path, aside: Path) -> None:
    """Rename into place what is complete; what stood there is put back if that fails."""
    if not folder.exists():
        os.rename(made, folder)
        return
    aside.mkdir()
    placed: list[Path] = []
    try:
        for path in sorted(made.iterdir()):
            place = folder / path.name
            if os.path.lexists(place):
                os.rename(place, aside / path.name)
            os.rename(path, place)
            placed.append(place)
    except BaseException:
        for place in placed:
            place.unlink()
        for path in aside.iterdir():
            os.rename(path, folder / path.name)
        raise
