"""Paths as people write them."""

import os
from pathlib import Path

from mcr_lens.errors import InputError

__all__ = ["plain_path"]


def plain_path(path: str | Path) -> Path:
    """A path with the user's home in the place of ``~``; no such home leaves it as it is.

    Raises:
        InputError: for what is no path.
    """
    if not isinstance(path, str | os.PathLike) or "\0" in os.fspath(path):
        raise InputError(f"{path!r}: not a path; give the name of a file or folder, such as 'run.nc'")
    return Path(os.path.expanduser(path))
