"""Results on disk: one netCDF file each, written whole or not at all, and open to every other program."""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import shutil
import tempfile
import uuid
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from mcr_lens.errors import InputError, one_line
from mcr_lens.host import host_memory, in_words
from mcr_lens.validate import plain_path

__all__ = ["SCHEMA", "atomic_write", "check_place", "load_dataset", "save_dataset"]

SCHEMA = 2
# Attributes travel as one JSON string: netCDF attributes lose None, booleans and nested values.
_ATTRIBUTE = "mcr_lens"
# HDF5 checks numbers by itself (Fletcher32), but neither texts nor attributes.
_CHECKSUMS = "mcr_lens_crc32"
_HDF5 = b"\x89HDF\r\n\x1a\n"
# The last line of a file of schema 1, behind the netCDF: its length and its hash.
_SEAL = re.compile(rb"\nmcr_lens \d{20} ([0-9a-f]{64})\n")
_SEAL_LENGTH = 96


@contextlib.contextmanager
def atomic_write(path: str | Path, *, is_folder: bool = False) -> Iterator[Path]:
    """A temporary place beside ``path`` to write to; it is renamed to ``path`` when the block has ended well.

    An error, a kill or Ctrl-C inside the block leaves ``path`` as it was.

    Args:
        is_folder: the block makes a folder; one that stands at ``path`` is replaced.

    Raises:
        InputError: when the place cannot be written.

    Example::

        with atomic_write("run.csv") as partial:
            table.to_csv(partial)
    """
    path = plain_path(path)
    check_place(path, is_folder=is_folder)
    partial, old = (path.parent / f".{uuid.uuid4().hex}.{end}" for end in ("part", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if is_folder and path.exists():
            os.replace(path, old)
        elif not is_folder:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise _unwritable(path, error.strerror or one_line(error)) from error
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        for left in (partial, old):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def check_place(path: str | Path, *, is_result: bool = False, is_folder: bool = False) -> None:
    """See before a long run whether a file can be written; makes nothing.

    Args:
        is_result: the file replaces an earlier result, but no other file, which may be the prompts'.
        is_folder: a folder is written, not a file.

    Raises:
        InputError: when it cannot.
    """
    path = plain_path(path)
    try:
        above = next(folder for folder in path.absolute().parents if folder.exists())
        is_other_file = is_result and path.is_file() and not path.is_symlink() and not _may_be_result(path)
        noun, is_such = ("folder", path.is_dir()) if is_folder else ("file", path.is_file())
        reasons = {
            "a folder stands there": path.is_dir() and not is_folder,
            f"something stands there that is no {noun}": path.exists() and not is_such,
            f"{above} is not a folder": not above.is_dir(),
            f"{above} is read-only": not os.access(above, os.W_OK),
            "a file stands there that is no result": is_other_file,
        }
        reason = next((reason for reason, holds in reasons.items() if holds), None)
        if reason is None:
            # For root os.access knows no limits, not even in /proc. Nothing of this is left.
            tempfile.TemporaryFile(dir=above).close()
    except OSError as error:  # a name too long
        reason = error.strerror
    if reason:
        raise _unwritable(path, reason)


def save_dataset(data: xr.Dataset, path: str | Path) -> Path:
    """Write a labelled dataset to one netCDF 4 file, whole or not at all.

    Numbers are compressed and carry checksums. All attributes stand in one text, ``mcr_lens``, as JSON.

    Raises:
        InputError: when the place cannot be written, or a file stands there that is no result.
    """
    path = plain_path(path)
    check_place(path, is_result=True)
    text = json.dumps({"schema": SCHEMA, **data.attrs}, default=_plain)
    stored = data.copy()
    stored.attrs = {_ATTRIBUTE: text, _CHECKSUMS: json.dumps(_checksums(data, text))}
    filters = {"zlib": True, "complevel": 4, "fletcher32": True}
    encoding = {name: filters for name, x in data.variables.items() if x.dtype.kind in "fiub" and x.ndim}
    # HDF5 may take the whole process with it when the disk is full under it: it writes into memory.
    with atomic_write(path) as partial:
        content = io.BytesIO()
        stored.to_netcdf(content, engine="h5netcdf", encoding=encoding)
        partial.write_bytes(content.getbuffer())
    return path


def load_dataset(path: str | Path) -> xr.Dataset:
    """Read a file that ``save_dataset`` wrote, also after xarray has changed it.

    Nothing but the file itself is read, nothing in it runs, and no more memory is taken than is free. Warns
    where a value is not the one that was saved.

    Raises:
        InputError: for a file that is missing, locked, unreadable, damaged, of another program, or newer.
    """
    path = plain_path(path)
    try:
        _check_beginning(path)
        _check_content(path)
        data = xr.load_dataset(path, engine="h5netcdf")
        checksums = json.loads(data.attrs.pop(_CHECKSUMS, "{}"))
        is_known = bool(checksums) or _is_sealed(path.read_bytes())
        text = data.attrs.pop(_ATTRIBUTE)
        attributes = json.loads(text)
        schema = attributes.pop("schema")
    except InputError:
        raise
    except Exception as error:  # h5netcdf and HDF5 raise what they like on a damaged file
        raise InputError(f"{path}: {_reason(error)}") from error
    if type(schema) is not int or schema > SCHEMA:
        raise InputError(f"{path}: schema {schema}, this version reads up to {SCHEMA}: upgrade mcr-lens")
    there = _checksums(data, text)
    changed = [name for name, checksum in checksums.items() if there.get(name) != checksum]
    if changed or not is_known:
        names = ", ".join("attributes" if name == _ATTRIBUTE else name for name in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        warnings.warn(
            f"{path}: edited or damaged since it was saved ({names or 'schema 1'}{more})", stacklevel=2
        )
    data.attrs |= attributes
    return data


def _check_beginning(path: Path) -> None:
    """Raise for what is no HDF5 file, before HDF5 sees it."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: {'a folder' if path.is_dir() else 'no file'}; give the file of a result")
    with path.open("rb") as file:
        beginning = file.read(len(_HDF5))
    if not beginning:
        raise InputError(f"{path}: the file is empty; copy it again, or compute it anew")
    if beginning.startswith(b"CDF"):
        raise InputError(f"{path}: a netCDF 3 file; save it with to_netcdf(..., engine='h5netcdf')")
    if beginning != _HDF5:
        raise InputError(f"{path}: not a result of mcr_lens (no netCDF 4 file)")


def _check_content(path: Path) -> None:
    """Raise for a file of another program, for data that stand elsewhere, and for more than memory holds."""
    free = host_memory()
    with h5py.File(path) as file:
        if _ATTRIBUTE not in file.attrs:
            raise InputError(
                f"{path}: not a result of mcr_lens; xarray.open_dataset reads files of other programs"
            )
        needed = 0
        for name in file:
            link = file.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise InputError(
                    f"{path}: {name} is a link to data that stand elsewhere; save the data themselves"
                )
            stored = file[name]
            if isinstance(stored, h5py.Dataset):
                if stored.external or stored.is_virtual:
                    raise InputError(f"{path}: the data of {name} stand in another file; save them in one")
                needed += _n_bytes(stored, free)
            if needed > free:
                raise InputError(
                    f"{path}: needs {in_words(needed)} of memory, {in_words(free)} are free; read a part "
                    "of it with xarray.open_dataset"
                )


def _n_bytes(stored: h5py.Dataset, most: int) -> int:
    """Memory that a variable takes: its values, a chunk of them, and the texts that they point to."""
    itemsize, size = max(stored.dtype.itemsize, 1), stored.size or 0
    n_bytes = itemsize * (size + math.prod(stored.chunks or ()))
    if h5py.check_vlen_dtype(stored.dtype) is None or not size or n_bytes > most:
        return n_bytes
    # Many texts may be one and the same long one: read so few at once that they fit even then.
    n_rows = max(1, most * len(stored) // (size * stored.file.id.get_filesize())) if stored.shape else 1
    rows = (stored[i : i + n_rows] for i in range(0, len(stored), n_rows)) if stored.shape else (stored[()],)
    return n_bytes + sum(len(text) for row in rows for text in np.ravel(row))


def _is_sealed(content: bytes) -> bool:
    """Whether this is a file of schema 1, which are sealed; raises ``ValueError`` for a broken seal."""
    seal = _SEAL.fullmatch(content[-_SEAL_LENGTH:])
    if seal and hashlib.sha256(content[:-_SEAL_LENGTH]).hexdigest().encode() != seal[1]:
        raise ValueError("not as it was written")
    return seal is not None


def _reason(error: Exception) -> str:
    """Why a file cannot be read, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if "unable to lock file" in str(error):
        return (
            "locked: another program writes it, or its disk has no locks; wait, or set "
            "HDF5_USE_FILE_LOCKING=FALSE"
        )
    if isinstance(error, OSError) and error.errno:
        return f"cannot be read ({error.strerror or one_line(error)}); check the rights and the disk"
    return f"damaged or cut short ({type(error).__name__}); copy it again, or compute it anew"


def _checksums(data: xr.Dataset, attributes: str) -> dict[str, int]:
    """CRC-32 of every variable as it is in memory, texts of any kind alike, and of the attributes."""
    # In a damaged file a text may hold half a surrogate pair.
    checksums = {_ATTRIBUTE: zlib.crc32(attributes.encode(errors="surrogatepass"))}
    for name, values in data.variables.items():
        array = values.values
        content = array.tobytes() if array.dtype.kind in "fiub" else _text_bytes(array)
        shape = f"{values.dims} {array.shape}".encode(errors="surrogatepass")
        checksums[str(name)] = zlib.crc32(content, zlib.crc32(shape))
    return checksums


def _text_bytes(texts: np.ndarray) -> bytes:
    return str(texts.tolist()).encode(errors="surrogatepass")


def _plain(value: Any) -> Any:
    """Numbers and arrays of NumPy as JSON has them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise InputError(f"attribute {value!r:.60}: a {type(value).__name__} cannot be saved; make a text of it")


def _may_be_result(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_HDF5))
    except OSError:  # it cannot be read, and yet be replaced
        return True
    return beginning in (b"", _HDF5)


def _unwritable(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: cannot be written ({reason}); choose another place")
