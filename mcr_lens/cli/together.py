"""Several files in one folder, of which none appears before all are written."""

import contextlib
import os
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

    Files of the same names are replaced, others stay.

    Raises:
        InputError: when the place cannot be written.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".part") as temporary:
            yield Path(temporary)
            for path in sorted(Path(temporary).iterdir()):
                os.replace(path, folder / path.name)
    except (OSError, InputError) as error:
        cause = error.__cause__ if isinstance(error, InputError) else error
        if not isinstance(cause, OSError):
            raise
        reason = cause.strerror or cause
        raise InputError(f"{folder}: cannot be written ({reason}); choose another place") from error
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # only an empty folder goes
                folder.rmdir()
