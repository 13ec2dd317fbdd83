"""The layers that make the sink token massive, and those that take it back."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mcr_lens.errors import InputError
from mcr_lens.phases.boundaries import MIN_NORM_RATIO, MIN_SHARE, WRITES, named_layers
from mcr_lens.phases.curves import ProfileLike, dataset_of, over_prompts

__all__ = [
    "Stage",
    "dissipation_layers",
    "dissipation_stages",
    "emergence_layers",
    "emergence_stages",
    "stages",
]


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


def stages(profile: ProfileLike, min_share: float, min_norm_ratio: float) -> tuple[list[Stage], list[Stage]]:
    """Emergence and dissipation stages; see the two functions of these names."""
    data = dataset_of(profile)
    if "mlp_write_norm" not in data:
        raise InputError("this profile has no writes (its self-check failed): no layers to name")
    means = [over_prompts(data, name) for name in WRITES]
    emergence, dissipation = named_layers(means, min_share, min_norm_ratio)
    _, norm, mlp_along, attention_along = means
    peak = np.fmax.reduce(norm)
    mlp_norm, attention_norm = (over_prompts(data, f"{kind}_write_norm") for kind in ("mlp", "attention"))
    return (
        _of_layers(emergence, mlp_along, attention_along, (mlp_along + attention_along) / peak),
        _of_layers(dissipation, mlp_norm, attention_norm, np.diff(norm) / peak),
    )


def _of_layers(layers: np.ndarray, mlp: np.ndarray, attention: np.ndarray, share: np.ndarray) -> list[Stage]:
    return [
        Stage(layer, "mlp" if mlp[layer] >= attention[layer] else "attention", float(share[layer]))
        for layer in np.flatnonzero(layers).tolist()
    ]
