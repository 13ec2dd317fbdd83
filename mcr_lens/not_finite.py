"""Where a residual stream holds Inf or NaN, in words: when it is measured, and when it is read."""

import numpy as np
import xarray as xr

__all__ = ["not_finite_note"]

_REMEDY = " float16 ends at 65,504: load the model in bfloat16 or float32."


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
