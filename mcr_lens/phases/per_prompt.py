"""Are the boundaries a fact about the model, or about the prompts?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from mcr_lens.errors import InputError
from mcr_lens.phases.compression import MIN_COMPRESSION
from mcr_lens.phases.curves import ProfileLike, dataset_of
from mcr_lens.phases.emergence import MIN_SHARE, Thresholds, boundaries, boundary_curves
from mcr_lens.stats.bootstrap import mean_of_prompts

__all__ = ["OVER_DATA_SETS", "constancy"]

OVER_DATA_SETS = "(over data sets)"


def constancy(
    profiles: ProfileLike | Mapping[str, ProfileLike],
    min_compression: float = MIN_COMPRESSION,
    min_share: float = MIN_SHARE,
) -> pd.DataFrame:
    """Where each single prompt has the boundaries and the layers, and each data set.

    Every prompt's own curves are read by the definition of ``find_phases`` and ``emergence_stages``. Of
    several emergence layers the first counts, of several dissipation layers the last. With several data
    sets, the last rows take the places on the mean curves of each, one value a data set.

    Args:
        profiles: a profile, or several of one model by the name of their data set.
        min_compression, min_share: as in ``find_phases``.

    Returns:
        A row ``(data set, boundary)``; columns ``of_mean`` (depth or layer on the mean curve), ``mode`` (the
        most frequent one; the lowest of several), ``at_mode`` (share of those that have the boundary which
        stand there), ``lowest``, ``highest``, ``having`` (share that have it at all) and ``n`` (prompts, or
        data sets). ``<NA>`` where none has it.

    Raises:
        InputError: without any profile, for profiles of different depth, or several profiles in one.
    """
    if isinstance(profiles, Mapping) and not isinstance(profiles, xr.Dataset):
        data_sets = {str(name): dataset_of(profile) for name, profile in profiles.items()}
    else:
        data_sets = {"": dataset_of(profiles)}
    if not data_sets:
        raise InputError("no profile to compare: give one, or several by name")
    depths = {name: data.sizes["depth"] - 1 for name, data in data_sets.items()}
    if len(set(depths.values())) > 1:
        raise InputError(f"profiles of {depths} layers are not of one model: compare each model by itself")
    thresholds = Thresholds(min_compression, min_share)
    rows, of_means = {}, []
    for name, data in data_sets.items():
        curves = boundary_curves(data)
        prompts = ~np.isnan(curves[0]).all(1)
        own = _places([curve[prompts] for curve in curves], thresholds)
        mean = _places([mean_of_prompts(curve)[None] for curve in curves], thresholds)
        of_means.append(mean)
        for boundary, places in own.items():
            rows[name, boundary] = {"of_mean": mean[boundary][0], **_constancy(places)}
    if len(data_sets) > 1:
        for boundary in dict.fromkeys(key for mean in of_means for key in mean):
            places = np.array([mean[boundary][0] if boundary in mean else np.nan for mean in of_means])
            rows[OVER_DATA_SETS, boundary] = {"of_mean": np.nan, **_constancy(places)}
    index = pd.MultiIndex.from_tuples(rows, names=["data set", "boundary"])
    table = pd.DataFrame(list(rows.values()), index=index)
    table = table.astype(dict.fromkeys(["of_mean", "mode", "lowest", "highest"], "Int64"))
    table.attrs = {**thresholds._asdict()}
    return table if len(data_sets) > 1 else table.droplevel(0)


def _places(
    curves: Sequence[Float[np.ndarray, "case place"]], thresholds: Thresholds
) -> dict[str, Float[np.ndarray, "case"]]:
    """Boundaries and layers of each set of curves; NaN where there is none."""
    begins, ends, _, emergence, dissipation = boundaries(curves, thresholds)
    places = {"compression begins": begins, "compression ends": ends}
    if emergence is not None and dissipation is not None:
        writes, removals = ~np.isnan(emergence), ~np.isnan(dissipation)
        last = removals.shape[1] - 1 - removals[:, ::-1].argmax(1)
        places["emergence layer (first)"] = np.where(writes.any(1), writes.argmax(1), np.nan)
        places["dissipation layer (last)"] = np.where(removals.any(1), last, np.nan)
    return places


def _constancy(places: Float[np.ndarray, "case"]) -> dict[str, Any]:
    finite = pd.Series(places).dropna()
    shares = finite.value_counts(normalize=True, sort=False).sort_index()
    return {
        "mode": shares.idxmax() if len(finite) else np.nan,
        "at_mode": shares.max(),
        "lowest": finite.min(),
        "highest": finite.max(),
        "having": len(finite) / len(places) if len(places) else np.nan,
        "n": len(places),
    }
