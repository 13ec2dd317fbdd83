"""The curves that everything here reads: by prompt along depth, or averaged over prompts."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import xarray as xr
from jaxtyping import Float

from mcr_lens.errors import InputError
from mcr_lens.stats.bootstrap import mean_of_prompts
from mcr_lens.thresholds import SINK_THRESHOLD

__all__ = [
    "CURVES",
    "ProfileLike",
    "by_prompt",
    "dataset_of",
    "is_raw",
    "joint_curves",
    "over_prompts",
    "primary_sink",
    "require_raw_estimator",
    "sink_positions",
]

CURVES = ("log_norm_ratio", "normalized_entropy", "sink_rate", "mixing_score", "identity_score")


class _HasDataset(Protocol):
    data: xr.Dataset


ProfileLike = xr.Dataset | _HasDataset


def dataset_of(profile: ProfileLike) -> xr.Dataset:
    """The dataset of a profile, or the dataset itself."""
    return profile if isinstance(profile, xr.Dataset) else profile.data


def is_raw(data: xr.Dataset) -> bool:
    """Whether a profile is of the raw estimator, which the theorem and the phases speak of."""
    raw = {"center": False, "unit_rows": False, "alpha": 1.0, "preset": "raw"}
    return raw | (data.attrs.get("estimator") or {}) == raw


def require_raw_estimator(data: xr.Dataset) -> None:
    """Raise ``InputError`` unless the profile is of the raw estimator."""
    if not is_raw(data):
        raise InputError(
            "phases and bounds speak of the raw estimator: profile with Estimator(), or draw the curves"
        )


def sink_positions(data: xr.Dataset) -> xr.DataArray:
    """The positions of each prompt's sinks, the primary first, (prompt, rank); -1 where there are fewer."""
    if "sink_positions" in data.coords:
        return data.coords["sink_positions"]
    position = data.attrs.get("sink_position", 0)
    return xr.zeros_like(data.n_tokens).expand_dims(rank=1, axis=-1).reset_coords(drop=True) + position


def primary_sink(data: xr.Dataset) -> int:
    """The position of the primary sink in most prompts; 0, the token that is watched, where there is none."""
    values, counts = np.unique(sink_positions(data).isel(rank=0).clip(min=0), return_counts=True)
    return int(values[counts.argmax()])


def by_prompt(data: xr.Dataset, name: str) -> Float[np.ndarray, "prompt place"]:
    """A variable along depth or layer, a row a prompt; of head variables the mean over heads.

    ``"sink_rate"`` is the fraction of heads with a sink score of at least 0.3; names that begin with
    ``"log_"`` are natural logarithms, NaN where the value is not above 0.

    Raises:
        InputError: for a name that the profile does not have, and for several profiles at once.
    """
    if name.startswith("log_"):
        values = by_prompt(data, name.removeprefix("log_"))
        return np.log(np.where(values > 0, values, np.nan))
    stored = "sink_score" if name == "sink_rate" else name
    if stored not in data:
        raise InputError(f"no variable {stored!r} in this profile; there are {', '.join(map(str, data))}")
    array = data[stored]
    extra = [dim for dim in array.dims if dim not in ("prompt", "depth", "layer", "head")]
    if extra:
        raise InputError(f"phases are those of one profile: select one {extra[0]} first")
    if name == "sink_rate":
        array = (array >= SINK_THRESHOLD).where(array.notnull())
    if "head" in array.dims:
        array = array.mean("head")
    return array.transpose("prompt", ...).values.astype(np.float64)


def over_prompts(data: xr.Dataset, name: str) -> Float[np.ndarray, "place"]:
    """Mean over prompts along depth or layer, NaN skipped."""
    return mean_of_prompts(by_prompt(data, name))


def joint_curves(
    data: xr.Dataset, names: Sequence[str] = CURVES
) -> tuple[tuple[str, ...], Float[np.ndarray, "prompt curve depth"]]:
    """Several curves over one axis of depths, and which of them the profile has.

    What belongs to a layer stands at the depth that the layer reads; the last depth, which no layer
    reads, is NaN there. Attention curves are left out when the profile has no attention.

    Raises:
        InputError: for a name that is not one of ``CURVES``, or when none is left.
    """
    unknown = [name for name in names if name not in CURVES]
    if unknown:
        raise InputError(f"no curve {unknown[0]!r}: use some of {', '.join(CURVES)}")
    present = tuple(
        name for name in names if name in ("log_norm_ratio", "normalized_entropy") or "sink_score" in data
    )
    if not present:
        raise InputError(f"this profile has none of the curves {', '.join(names) or '(none given)'}")
    n_depths = data.sizes["depth"]
    curves = np.full((data.sizes["prompt"], len(present), n_depths), np.nan)
    for place, name in enumerate(present):
        values = by_prompt(data, name)
        curves[:, place, : values.shape[1]] = values
    return present, curves
