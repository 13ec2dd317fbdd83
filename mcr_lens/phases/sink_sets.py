"""Profiles whose prompts differ in their sets of sinks, put together of their parts."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

__all__ = ["replace_prompts", "without_sinks"]

# What it means to leave out no row at all.
_NOTHING_LEFT_OUT = {
    "entropy_without_sink": "matrix_entropy",
    "normalized_entropy_without_sink": "normalized_entropy",
    "anisotropy_without_sink": "anisotropy",
}


def replace_prompts(data: xr.Dataset, again: xr.Dataset) -> None:
    """Write what was measured again of some prompts over their values."""
    at = {"prompt": again.prompt.values}
    for name, values in again.data_vars.items():
        data[name].loc[at] = values.transpose(*data[name].dims).values


def without_sinks(data: xr.Dataset, prompts: Sequence[int]) -> None:
    """Prompts without a sink: the rest is all of them, so that kappa is 0, and the sinks' mass."""
    at = {"prompt": list(prompts)}
    for name, whole in _NOTHING_LEFT_OUT.items():
        data[name].loc[at] = data[whole].loc[at].values
    ratio, share = (data[name].loc[at] for name in ("norm_mass_ratio", "largest_rest_share"))
    of_first, of_largest = ratio / (1 + ratio), share / (1 + ratio)
    data["largest_rest_position"].loc[at] = (
        data.largest_rest_position.loc[at].where(of_largest > of_first, 0).values
    )
    data["largest_rest_share"].loc[at] = np.fmax(of_first, of_largest).values
    data["sink_mass_ratio"].loc[at] = ratio.where(ratio.isnull(), 0.0).values
