"""The layers that make the sink token massive, and those that take it back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from mcr_lens.errors import InputError
from mcr_lens.phases.compression import MIN_NORM_RATIO
from mcr_lens.phases.curves import ProfileLike, dataset_of, over_prompts

__all__ = [
    "MIN_SHARE",
    "WRITES",
    "Stage",
    "dissipation_layers",
    "dissipation_stages",
    "emergence_layers",
    "emergence_stages",
    "named_layers",
    "stages",
]

MIN_SHARE = 0.2
# What the layers are read from, in the order of ``named_layers``.
WRITES = ("norm_ratio", "sink_norm", "mlp_write_along", "attention_write_along")


@dataclass(frozen=True)
class Stage:
    """A layer that writes or removes a good part of the sink token's norm.

    Attributes:
        write: which of the layer's two writes does more of it.
        share: change of the sink token's norm over its peak; negative where it is removed.
    """

    layer: int
    write: Literal["mlp", "attention"]
    share: float


def emergence_stages(
    profile: ProfileLike, min_share: float = MIN_SHARE, min_norm_ratio: float = MIN_NORM_RATIO
) -> list[Stage]:
    """Layers that write at least ``min_share`` of the sink token's peak norm, in order.

    Read from the means over prompts of the writes along the state they leave behind. Behind the peak only
    where the token had ceased to be massive and is so again. Empty when the norm ratio never reaches
    ``min_norm_ratio``: then there is nothing massive to emerge.

    Raises:
        InputError: for a profile without writes, or several profiles at once.
    """
    return stages(profile, min_share, min_norm_ratio)[0]


def dissipation_stages(
    profile: ProfileLike, min_share: float = MIN_SHARE, min_norm_ratio: float = MIN_NORM_RATIO
) -> list[Stage]:
    """Layers that take at least ``min_share`` of the sink token's peak norm away, in order.

    Before the peak only where a massive token then ceases to be one, to emerge again. The share is the
    fall of the norm itself: a write that removes nearly all of a state has no fixed direction along the
    little that it leaves behind. The larger write is named.

    Raises:
        InputError: for a profile without writes, or several profiles at once.
    """
    return stages(profile, min_share, min_norm_ratio)[1]


def emergence_layers(
    profile: ProfileLike, min_share: float = MIN_SHARE, min_norm_ratio: float = MIN_NORM_RATIO
) -> list[int]:
    """The layers of ``emergence_stages``."""
    return [stage.layer for stage in emergence_stages(profile, min_share, min_norm_ratio)]


def dissipation_layers(
    profile: ProfileLike, min_share: float = MIN_SHARE, min_norm_ratio: float = MIN_NORM_RATIO
) -> list[int]:
    """The layers of ``dissipation_stages``."""
    return [stage.layer for stage in dissipation_stages(profile, min_share, min_norm_ratio)]


def named_layers(
    curves: Sequence[Float[np.ndarray, "*curve place"]],
    min_share: float = MIN_SHARE,
    min_norm_ratio: float = MIN_NORM_RATIO,
) -> tuple[Bool[np.ndarray, "*curve layer"], Bool[np.ndarray, "*curve layer"]]:
    """Which layers are emergence and which are dissipation layers, for one set of curves or many.

    Args:
        curves: those of ``WRITES``, in that order; the first two along depth, the others along layer.
        min_share: see ``emergence_stages``.
        min_norm_ratio: see ``emergence_stages``.
    """
    ratio, norm, mlp_along, attention_along = curves
    massive = np.fmax.reduce(ratio, axis=-1, keepdims=True) >= min_norm_ratio
    filled = np.where(np.isnan(norm), -np.inf, norm)
    peak = filled.argmax(-1)[..., None]
    largest = np.take_along_axis(norm, peak, -1)
    before = np.arange(norm.shape[-1] - 1) < peak
    is_massive = ratio >= min_norm_ratio
    # Behind the peak it emerges again only where it had ceased to be massive, and the same the other way.
    depth = np.arange(norm.shape[-1])
    ceased = np.logical_or.accumulate(~is_massive & (depth > peak), axis=-1)[..., :-1]
    ceases = np.logical_or.accumulate((~is_massive & (depth < peak))[..., ::-1], axis=-1)[..., ::-1][..., 1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        written = (mlp_along + attention_along) / largest
        change = np.diff(norm, axis=-1) / largest
    return (
        massive & (written >= min_share) & (before | (ceased & is_massive[..., 1:])),
        massive & (change <= -min_share) & (~before | (ceases & is_massive[..., :-1])),
    )


def stages(profile: ProfileLike, min_share: float, min_norm_ratio: float) -> tuple[list[Stage], list[Stage]]:
    """Emergence and dissipation stages; see the two functions of these names."""
    data = dataset_of(profile)
    if "mlp_write_norm" not in data:
        raise InputError("this profile has no writes (its self-check failed): no layers to name")
    means = [over_prompts(data, name) for name in WRITES]
    written, removed = named_layers(means, min_share, min_norm_ratio)
    _, norm, mlp_along, attention_along = means
    peak = np.fmax.reduce(norm)
    mlp_norm, attention_norm = (
        over_prompts(data, "mlp_write_norm"),
        over_prompts(data, "attention_write_norm"),
    )
    return (
        _of_layers(written, mlp_along, attention_along, (mlp_along + attention_along) / peak),
        _of_layers(removed, mlp_norm, attention_norm, np.diff(norm) / peak),
    )


def _of_layers(layers: np.ndarray, mlp: np.ndarray, attention: np.ndarray, share: np.ndarray) -> list[Stage]:
    return [
        Stage(layer, "mlp" if mlp[layer] >= attention[layer] else "attention", float(share[layer]))
        for layer in np.flatnonzero(layers).tolist()
    ]
