"""One dataset, one netCDF file: written whole or not at all, read without running anything."""

import contextlib
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import xarray as xr

from mcr_lens.errors import InputError, one_line
from mcr_lens.paths import plain_path
from mcr_lens.result_files.attributes import check_attributes
from mcr_lens.result_files.content import check_content
from mcr_lens.result_files.variables import check_variables

__all__ = ["SCHEMA", "check_place", "check_result_place", "read_dataset", "write_dataset"]

SCHEMA = 1
# Attributes travel as one JSON string: netCDF attributes lose None, booleans and nested values.
_ATTRIBUTE = "mcr_lens"
_SEAL = b"\nmcr_lens %020d %s\n"
_SEAL_LENGTH = len(_SEAL % (0, b"0" * 64))
# How a netCDF file begins, of this format and of the one before.
_BEGINNINGS = (b"\x89HDF\r\n\x1a\n", b"CDF")


def check_place(path: str | Path) -> None:
    """See before a long run whether its result can be written; makes nothing.

    Raises:
        InputError: when it cannot.
    """
    path = plain_path(path)
    reason = None
    try:
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if path.is_dir():
            reason = "a folder stands there"
        elif path.exists() and not path.is_file():
            reason = "something stands there that is no file"  # a device or a pipe must not be renamed over
        elif not above.is_dir():
            reason = f"{above} is not a folder"
        elif not os.access(above, os.W_OK):
            reason = f"{above} is read-only"
        else:
            # For root os.access knows no limits, not even in /proc. Nothing of this is left.
            tempfile.TemporaryFile(dir=above).close()
    except OSError as error:  # a name too long
        reason = error.strerror
    if reason:
        raise _unwritable(path, reason)


def check_result_place(path: str | Path) -> None:
    """The same for a result, which replaces an earlier one and no other file: it may be the prompts'.

    Raises:
        InputError: when it cannot be written, or something that is no result stands there.
    """
    check_place(path)
    path = plain_path(path)
    if path.is_symlink():  # the link alone is replaced, what it leads to stays
        return
    try:
        with path.open("rb") as file:
            beginning = file.read(8)
    except OSError:  # nothing there, or nothing that can be read and yet be replaced
        return
    if beginning and not beginning.startswith(_BEGINNINGS):
        raise _unwritable(path, "a file stands there that is no result")


def write_dataset(data: xr.Dataset, path: str | Path) -> Path:
    """Write to a temporary file beside ``path`` first, renamed when complete.

    The file is netCDF 4, which other programs read too, and a line behind it with the hash of its content.

    Raises:
        InputError: when the place cannot be written, a file stands there that is no result, or the data hold
            what could not be read again; nothing is left behind.
    """
    check_result_place(path)
    path = plain_path(path)
    check_variables(data, path)
    stored = data.copy()
    stored.attrs = {_ATTRIBUTE: json.dumps({"schema": SCHEMA, **data.attrs})}
    compressed = {str(name): {"zlib": True, "complevel": 4} for name in stored.data_vars}
    # HDF5 may take the whole process with it when the disk is full under it: it writes into memory.
    content = io.BytesIO()
    temporary = None
    try:
        stored.to_netcdf(content, engine="h5netcdf", encoding=compressed)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".nc.part")
        with os.fdopen(handle, "wb") as file:
            file.write(content.getbuffer())
            file.write(_seal(content.getbuffer()))
        # mkstemp makes files private; a result is as readable as any other file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error.strerror or one_line(error)) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return path


def read_dataset(path: str | Path) -> xr.Dataset:
    """Read a file that ``write_dataset`` wrote, and nobody has changed since.

    Nothing but the file itself is read, and no more memory is taken than its size can account for. What
    another program has written opens with ``xarray.open_dataset``.

    Raises:
        InputError: for a file that is missing, truncated, foreign, or of a newer schema; where it says of
            itself what no result says.
    """
    path = plain_path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that is too long
        raise InputError(f"{path}: no such file")
    try:
        _check_seal(path)
        check_content(path)
        data = xr.load_dataset(path, engine="h5netcdf")
        attributes = json.loads(data.attrs[_ATTRIBUTE])
        schema = attributes.pop("schema")
    except Exception as error:  # h5netcdf and HDF5 raise what they like on a broken file
        raise InputError(
            f"{path}: not a file saved by mcr_lens, or cut short ({type(error).__name__})"
        ) from error
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise InputError(f"{path}: schema {schema}, this version reads up to {SCHEMA}: upgrade mcr-lens")
    check_attributes(attributes, path)
    check_variables(data, path)
    data.attrs = attributes
    return data


def _seal(content: Any) -> bytes:
    """What stands behind the netCDF, where its readers do not look: its length and its hash."""
    return _SEAL % (len(content), hashlib.sha256(content).hexdigest().encode())


def _check_seal(path: Path) -> None:
    """Raise ``ValueError`` for a file that is not, byte for byte, what was written.

    HDF5 reads a damaged file for ever, or takes the process with it: it must not see one.
    """
    content = memoryview(path.read_bytes())
    length = len(content) - _SEAL_LENGTH
    if length < 0 or bytes(content[length:]) != _seal(content[:length]):
        raise ValueError("not as it was written")


def _unwritable(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: cannot be written ({reason}); choose another place")
