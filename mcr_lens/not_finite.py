"""Where a residual stream holds Inf or NaN, in words: when it is measured, and when it is read."""

import numpy as np
import xarray as xr

__all__ = ["NotFiniteWarning", "not_finite_note", "without_lost_rows"]


class NotFiniteWarning(RuntimeWarning):
    """What ``not_finite_note`` says, as a warning; of its own kind, since a part's is not the whole's."""


_REMEDY = " float16 ends at 65,504: load the model in bfloat16 or float32."


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
            missing = np.nan if np.issubdtype(values.dtype, np.floating) else -1
            data[name] = values.where(~first | (data[along[0]] < begins), missing)
    return data.assign_coords(
        not_finite_depth=data.not_finite_depth.where(~first, depth),
        not_finite_position=data.not_finite_position.where(~first, position),
    )


def not_finite_note(data: xr.Dataset, dtype: str | None = None) -> str | None:
    """One sentence that names the first broken state by prompt, depth and position; ``None`` without any.

    Reads the coordinates ``not_finite_depth`` and ``not_finite_position`` of the prompts of one profile (-1:
    all finite). The first is the least depth, and there the first prompt. ``dtype`` is the model's, for what
    may help.
    """
    if "not_finite_depth" not in data.coords or data.not_finite_depth.dims != ("prompt",):
        return None
    depths = data.not_finite_depth.values
    broken = np.flatnonzero(depths >= 0)
    if not len(broken):
        return None
    first = broken[np.argmin(depths[broken])]
    depth, position = int(depths[first]), int(data.not_finite_position[first])
    left_by = f"which layer {depth - 1} leaves behind" if depth else "the embedding"
    note = (
        f"Inf or NaN in the residual stream of {len(broken)} of {len(depths)} prompts, first in prompt "
        f"{int(data.prompt[first])} at depth {depth} ({left_by}), position {position}: what rests on such a "
        "state is NaN and left out of every mean."
    )
    return note + _REMEDY if dtype == "float16" else note
