"""Where a residual stream holds Inf or NaN: kept out of every number, and told in words.

A result carries two coordinates of its prompts, ``not_finite_depth`` and ``not_finite_position``: the first
depth at which a state is broken and the first position there, -1 where all is finite.
"""

import warnings

import numpy as np
import xarray as xr

__all__ = [
    "NOT_FINITE",
    "NotFiniteWarning",
    "not_finite_note",
    "warn_not_finite",
    "with_first_broken",
    "without_broken",
    "without_lost_rows",
]

# First broken position of each prompt and depth; on its way to the two coordinates.
NOT_FINITE = "not_finite"


class NotFiniteWarning(RuntimeWarning):
    """What ``not_finite_note`` says, as a warning; of its own kind, since a part's is not the whole's."""


_REMEDY = " float16 ends at 65,504: load the model in bfloat16 or float32."
# What a broken state belongs to: prompts, or questions that were asked as several of them.
_UNITS = ("prompt", "document")


def with_first_broken(data: xr.Dataset, dtype: str) -> xr.Dataset:
    """The variable ``NOT_FINITE``, (prompt, depth), made into the two coordinates; warns where it says so."""
    broken = data[NOT_FINITE] >= 0
    depth = broken.argmax("depth")
    position = data[NOT_FINITE].isel(depth=depth).drop_vars("depth")
    data = data.drop_vars(NOT_FINITE).assign_coords(
        not_finite_depth=depth.where(position >= 0, -1), not_finite_position=position
    )
    warn_not_finite(data, dtype)
    return data


def without_broken(data: xr.Dataset) -> xr.Dataset:
    """NaN (-1 for integers) for a prompt from its first broken depth on, and in the layers that read it."""
    begins = data.not_finite_depth
    if not bool((begins >= 0).any()):
        return data
    for name, values in data.data_vars.items():
        along = next((dim for dim in ("depth", "layer") if dim in values.dims), None)
        if along and "prompt" in values.dims and values.dtype.kind in "fiu":
            data[name] = values.where((begins < 0) | (data[along] < begins), _missing(values))
    return data


def without_lost_rows(data: xr.Dataset, lost_row: str) -> xr.Dataset:
    """A profile in which nothing rests on attention that was lost in a layer.

    Args:
        data: with ``lost_row``, (prompt, layer): the first position at which a head attends to nothing, -1
            for none. From that layer on, and from the depth that it leaves, the prompt is NaN (-1 for
            integers), and ``not_finite_depth`` and ``not_finite_position`` say where that begins.
    """
    rows = data[lost_row].fillna(-1).astype(int)
    data = data.drop_vars(lost_row)
    lost = rows >= 0
    layer = lost.argmax("layer")
    depth, position = layer + 1, rows.isel(layer=layer).drop_vars("layer")
    first = lost.any("layer") & ((data.not_finite_depth < 0) | (data.not_finite_depth > depth))
    if not bool(first.any()):
        return data
    for name, values in data.data_vars.items():
        along = [dim for dim in ("depth", "layer") if dim in values.dims]
        if along:
            begins = depth if along[0] == "depth" else layer
            data[name] = values.where(~first | (data[along[0]] < begins), _missing(values))
    return data.assign_coords(
        not_finite_depth=data.not_finite_depth.where(~first, depth),
        not_finite_position=data.not_finite_position.where(~first, position),
    )


def warn_not_finite(data: xr.Dataset, dtype: str | None) -> None:
    """The note as a ``NotFiniteWarning``, where there is one."""
    if note := not_finite_note(data, dtype):
        warnings.warn(note, NotFiniteWarning, stacklevel=3)


def not_finite_note(data: xr.Dataset, dtype: str | None = None) -> str | None:
    """One sentence that names the first broken state by prompt, depth and position; ``None`` without any.

    Reads the coordinates ``not_finite_depth`` and ``not_finite_position`` of the prompts (or questions) of a
    result; where it has arms, doses, models or steps, the first one is named too. The first is the least
    depth, and there the first prompt. ``dtype`` is the model's, for what may help.
    """
    if not {"not_finite_depth", "not_finite_position"} <= set(data.coords):
        return None
    depths = data.not_finite_depth
    unit = next((dim for dim in _UNITS if dim in depths.dims), None)
    if unit is None:
        return None
    depths = depths.transpose(unit, ...)
    broken = depths.values >= 0
    if not broken.any():
        return None
    least = np.where(broken, depths.values, np.inf).argmin()
    place = dict(zip(map(str, depths.dims), np.unravel_index(least, depths.shape), strict=True))
    at = {dim: data[dim].values[i] for dim, i in place.items()}
    depth = int(depths.isel(place))
    position = int(
        data.not_finite_position.isel(
            {dim: i for dim, i in place.items() if dim in data.not_finite_position.dims}
        )
    )
    left_by = f"which layer {depth - 1} leaves behind" if depth else "the embedding"
    also = "".join(f", {dim} {label}" for dim, label in at.items() if dim != unit)
    n = int(broken.reshape(len(broken), -1).any(1).sum())
    note = (
        f"Inf or NaN in the residual stream of {n} of {len(broken)} {unit}s, first in {unit} {at[unit]} at "
        f"depth {depth} ({left_by}), position {position}{also}: what rests on such a state is NaN and left "
        "out of every mean."
    )
    return note + _REMEDY if dtype == "float16" else note


def _missing(values: xr.DataArray) -> float:
    return np.nan if np.issubdtype(values.dtype, np.floating) else -1
