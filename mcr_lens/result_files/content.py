"""What no file of ours holds: data kept elsewhere, or more than the file can hold. Nothing is read for it.

HDF5 can point to other files, whose content a reader would be shown as the result's. It can claim any number
of values that were never written, let a thousand texts be one and the same long one, or compress what is
compressed: memory would be taken for all of it.
"""

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np

__all__ = ["check_content"]

# No compression that we write with makes more than this of a byte.
_DEFLATED = 1100
# Bytes that may be taken at once: for a piece of an array, or for some texts that are long and the same one.
_PIECE, _AT_ONCE = 2**22, 2**28


def check_content(path: Path) -> None:
    """Raise ``ValueError`` for a file that would have another read, or take more memory than it may."""
    most = path.stat().st_size
    claimed = 0
    with h5py.File(path, "r") as file:
        texts = sum(_texts_of_attributes(file, most))
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name} is a link")
            stored = file[name]
            if not isinstance(stored, h5py.Dataset) or stored.external or stored.is_virtual:
                raise ValueError(f"{name} is no plain array")
            claimed += (stored.size or 0) * max(stored.dtype.itemsize, 1)
            if claimed > _DEFLATED * most:
                raise ValueError(f"{claimed} bytes claimed")
            _check_layout(stored)
            for length in chain(_texts_of_attributes(stored, most), _texts(stored, most)):
                texts += length
                if texts > most:
                    raise ValueError(f"{name}: more text than the file can hold")


def _check_layout(stored: h5py.Dataset) -> None:
    """No piece larger than the whole, and nothing compressed twice."""
    size = max(stored.dtype.itemsize, 1)
    if stored.chunks and size * math.prod(stored.chunks) > max(size * (stored.size or 0), _PIECE):
        raise ValueError(f"{stored.name}: pieces {stored.chunks} of {stored.shape}")
    filters = stored.id.get_create_plist()
    kinds = [filters.get_filter(i)[0] for i in range(filters.get_nfilters())]
    if kinds not in ([], [h5py.h5z.FILTER_DEFLATE]):
        raise ValueError(f"{stored.name}: filters {kinds}")


def _texts(stored: h5py.Dataset, most: int) -> Iterator[int]:
    """Lengths of the texts of an array, a few read at once."""
    kind = h5py.check_vlen_dtype(stored.dtype)
    if kind is None:
        return
    if kind is not str or (stored.size or 0) > most:
        raise ValueError(f"{stored.name}: {stored.size} lists of {kind}")
    if not stored.shape:
        yield len(stored[()])
        return
    *leading, last = stored.shape
    at_once = max(1, _AT_ONCE // most)
    for place in np.ndindex(*leading):
        for start in range(0, last, at_once):
            yield sum(map(len, stored[(*place, slice(start, start + at_once))]))


def _texts_of_attributes(stored: Any, most: int) -> Iterator[int]:
    for name in stored.attrs:
        attribute = stored.attrs.get_id(name)
        kind = h5py.check_vlen_dtype(attribute.dtype)
        size = math.prod(attribute.shape or ())
        # A few are no danger: a list of a variable's dimensions, the names of classes.
        if kind is not None and size > max(1, _AT_ONCE // most):
            raise ValueError(f"attribute {name}: {size} lists of {kind}")
        if kind is str:
            yield sum(map(len, np.ravel(stored.attrs[name])))
