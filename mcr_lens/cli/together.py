"""Several files in one folder, of which none appears before all are written."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mcr_lens.cli.options import check_is_folder
from mcr_lens.errors import InputError


def check_folder(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """See before a long run whether files of these names can be put into a folder; makes nothing.

    Raises:
        InputError: when they cannot, or when some are there and are not to be replaced.
    """
    from mcr_lens.results import check_place

    check_is_folder(folder)
    folder = folder.expanduser()
    for name in names:
        check_place(folder / name)
    there = [name for name in names if os.path.lexists(folder / name)]
    if there and not overwrite:
        raise InputError(
            f"{folder}: {', '.join(there)} already there; choose another folder, or replace with --overwrite"
        )


@contextlib.contextmanager
def appearing_together(folder: Path, names: Sequence[str]) -> Iterator[list[Path]]:
    """A place for each file of a folder; the files appear when the block has written them all.

    Files of the same names are replaced, others stay.

    Raises:
        InputError: when a place cannot be written.
    """
    from mcr_lens.results import atomic_write

    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(atomic_write(folder / name)) for name in names]
