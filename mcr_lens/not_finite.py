"""Where a residual stream or logits hold Inf or NaN: kept out of every number, and told in words.

A result carries two coordinates of its prompts, ``not_finite_depth`` and ``not_finite_position``: the first
depth at which a state is broken and the first position there, -1 where all is finite. Where logits were
read out, a third, ``not_finite_logits`` of prompts and depths: the first position whose logits are broken
though the state they are read out of is not, -1 where there is none.
"""

import warnings

import numpy as np
import xarray as xr

__all__ = [
    "LOST_LOGITS",
    "NOT_FINITE",
    "NotFiniteWarning",
    "is_sound",
    "not_finite_note",
    "remedy",
    "warn_not_finite",
    "with_first_broken",
    "without_broken",
    "without_lost_rows",
]

# First broken position of each prompt and depth; on its way to the two coordinates.
NOT_FINITE = "not_finite"
# The third coordinate.
LOST_LOGITS = "not_finite_logits"


class NotFiniteWarning(RuntimeWarning):
    """What ``not_finite_note`` says, as a warning; of its own kind, since a part's is not the whole's."""


# What is broken belongs to one: prompts, questions that were asked as several of them, or their answers.
_UNITS = ("prompt", "document", "answer")


def with_first_broken(data: xr.Dataset, dtype: str) -> xr.Dataset:
    """The variable ``NOT_FINITE``, (prompt, depth), made into the two coordinates; warns where it says so."""
    depth, position = _first_of(data[NOT_FINITE])
    data = data.drop_vars(NOT_FINITE).assign_coords(not_finite_depth=depth, not_finite_position=position)
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
    """A sentence that names the first broken state by prompt, depth and position; ``None`` without any.

    Reads the coordinates of the prompts (or questions) of a result; where it has arms, doses, models or
    steps, the first one is named too. The first is the least depth, and there the first prompt. Logits that
    are broken though their states are not have a sentence of their own. ``dtype`` is the model's, for what
    may help.
    """
    notes = []
    if {"not_finite_depth", "not_finite_position"} <= set(data.coords):
        notes.append(_note(data.not_finite_depth, data.not_finite_position, "the residual stream"))
    if LOST_LOGITS in data.coords and "depth" in data[LOST_LOGITS].dims:
        notes.append(_note(*_first_of(data[LOST_LOGITS]), "logits read out of finite states"))
    told = [note for note in notes if note]
    return " ".join(told) + remedy(dtype) if told else None


def remedy(dtype: str | None) -> str:
    """What may help against Inf and NaN in a model of this dtype: a sentence to append, or nothing."""
    return " float16 ends at 65,504: load the model in bfloat16 or float32." if dtype == "float16" else ""


def is_sound(data: xr.Dataset) -> xr.DataArray:
    """Whether states up to a depth, and the logits read out there, are finite, of each prompt and depth."""
    begins = data.not_finite_depth
    sound = (begins < 0) | (data.depth < begins)
    return sound & (data[LOST_LOGITS] < 0) if LOST_LOGITS in data.coords else sound


def _first_of(positions: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Of positions by depth, -1 where nothing is broken: the first depth that has one, and its position."""
    place = (positions >= 0).argmax("depth")
    position = positions.isel(depth=place).drop_vars("depth")
    depth = positions.depth.isel(depth=place).drop_vars("depth")
    return depth.where(position >= 0, -1), position


def _note(depths: xr.DataArray, positions: xr.DataArray, what: str) -> str | None:
    unit = next((dim for dim in _UNITS if dim in depths.dims), None)
    if unit is None:
        return None
    depths = depths.transpose(unit, ...)
    broken = depths.values >= 0
    if not broken.any():
        return None
    least = np.where(broken, depths.values, np.inf).argmin()
    place = dict(zip(map(str, depths.dims), np.unravel_index(least, depths.shape), strict=True))
    at = {dim: depths[dim].values[i] for dim, i in place.items()}
    depth = int(depths.isel(place))
    position = int(positions.isel({dim: i for dim, i in place.items() if dim in positions.dims}))
    left_by = f"which layer {depth - 1} leaves behind" if depth else "the embedding"
    also = "".join(f", {dim} {label}" for dim, label in at.items() if dim != unit)
    n = int(broken.reshape(len(broken), -1).any(1).sum())
    return (
        f"Inf or NaN in {what} of {n} of {len(broken)} {unit}s, first in {unit} {at[unit]} at "
        f"depth {depth} ({left_by}), position {position}{also}: what rests on them is NaN and left "
        "out of every mean."
    )


def _missing(values: xr.DataArray) -> float:
    return np.nan if np.issubdtype(values.dtype, np.floating) else -1
