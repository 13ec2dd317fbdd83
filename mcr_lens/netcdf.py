"""One dataset, one netCDF file: written whole or not at all, read without running anything."""

import contextlib
import json
import os
import tempfile
from pathlib import Path

import xarray as xr

from mcr_lens.errors import InputError

__all__ = ["SCHEMA", "check_place", "read_dataset", "write_dataset"]

SCHEMA = 1
# Attributes travel as one JSON string: netCDF attributes lose None, booleans and nested values.
_ATTRIBUTE = "mcr_lens"


def check_place(path: str | Path) -> None:
    """See before a long run whether its result can be written; makes nothing.

    Raises:
        InputError: when it cannot.
    """
    path = Path(path).expanduser()
    above = next(folder for folder in path.absolute().parents if folder.exists())
    reason = None
    if path.is_dir():
        reason = "a folder stands there"
    elif not above.is_dir():
        reason = f"{above} is not a folder"
    elif not os.access(above, os.W_OK):
        reason = f"{above} is read-only"
    if reason:
        raise InputError(f"{path}: cannot be written ({reason}); choose another place")


def write_dataset(data: xr.Dataset, path: str | Path) -> Path:
    """Write to a temporary file beside ``path`` first, renamed when complete.

    Raises:
        InputError: when the place cannot be written; nothing is left behind.
    """
    path = Path(path).expanduser()
    stored = data.copy()
    stored.attrs = {_ATTRIBUTE: json.dumps({"schema": SCHEMA, **data.attrs})}
    compressed = {str(name): {"zlib": True, "complevel": 4} for name in stored.data_vars}
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".nc.part")
        os.close(handle)
        stored.to_netcdf(temporary, engine="h5netcdf", encoding=compressed)
        # mkstemp makes files private; a result is as readable as any other file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); choose another place") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return path


def read_dataset(path: str | Path) -> xr.Dataset:
    """Read a file that ``write_dataset`` wrote.

    Raises:
        InputError: for a file that is missing, truncated, foreign, or of a newer schema.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        data = xr.load_dataset(path, engine="h5netcdf")
        attributes = json.loads(data.attrs[_ATTRIBUTE])
        schema = attributes.pop("schema")
    except Exception as error:  # h5netcdf and HDF5 raise what they like on a broken file
        raise InputError(
            f"{path}: not a file saved by mcr_lens, or cut short ({type(error).__name__})"
        ) from error
    if not isinstance(schema, int) or schema > SCHEMA:
        raise InputError(f"{path}: schema {schema}, this version reads up to {SCHEMA}: upgrade mcr-lens")
    data.attrs = attributes
    return data
