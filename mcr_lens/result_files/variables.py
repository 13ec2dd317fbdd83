"""What the variables of a result may be: whatever a file holds, its readers must not meet another kind."""

import numpy as np
import xarray as xr

from mcr_lens.errors import InputError

__all__ = ["check_variables"]

# Along these everything is a number, and their own coordinates are.
_AXES = ("depth", "layer", "head", "dose")


def check_variables(data: xr.Dataset, path: object) -> None:
    """Raise ``InputError`` where a variable that is read anywhere is of a kind that it never has.

    Before a file is written as well: what is written can be read.
    """
    for name, values in data.variables.items():
        if set(_AXES) & set(values.dims) and values.dtype.kind not in "iufb":
            raise _wrong(path, name, "holds no numbers")
    for name in {"depth", "layer"} & set(data.coords):
        if data[name].dtype.kind == "b" or len(np.unique(data[name].values)) < data[name].size:
            raise _wrong(path, name, "names one of its places twice")
    for name in ("n_tokens", "not_finite_depth"):
        if name in data.variables and not _whole(data[name].values):
            raise _wrong(path, name, "holds no whole numbers")


def _whole(values: np.ndarray) -> bool:
    """Whether all are, also where joining results has made them floats."""
    return values.dtype.kind in "iu" or (
        values.dtype.kind == "f" and bool((np.isfinite(values) & (values == np.floor(values))).all())
    )


def _wrong(path: object, name: object, why: str) -> InputError:
    return InputError(f"{path}: variable {name!r} {why}: no result of mcr-lens has that; leave it out")
