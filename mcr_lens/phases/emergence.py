"""The layers that make the sink token massive, and those that take it back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from mcr_lens.errors import InputError
from mcr_lens.phases.compression import (
    MIN_COMPRESSION,
    compression_span,
    outweighs_others,
    sink_compression,
    typical_compression,
)
from mcr_lens.phases.curves import ProfileLike, by_prompt, dataset_of, over_prompts
from mcr_lens.stats.bootstrap import bootstrap_interval, mean_of_prompts

__all__ = [
    "MIN_SHARE",
    "Boundaries",
    "Stage",
    "Thresholds",
    "boundaries",
    "boundary_curves",
    "dissipation_layers",
    "dissipation_stages",
    "emergence_layers",
    "emergence_stages",
    "means_and_low",
    "ratio_changes",
    "stages",
    "stages_of",
]

MIN_SHARE = 0.2
_WRITES = ("sink_norm", "mlp_write_along", "attention_write_along")


@dataclass(frozen=True)
class Stage:
    """A layer that writes or removes a good part of the sink token's norm.

    Attributes:
        write: which of the layer's two writes does more of it.
        share: what it writes over the norm that it is held against (see ``emergence_stages``), or change of
            the norm over the largest so far; negative where it is removed.
    """

    layer: int
    write: Literal["mlp", "attention"]
    share: float


class Thresholds(NamedTuple):
    """See ``find_phases``."""

    min_compression: float = MIN_COMPRESSION
    min_share: float = MIN_SHARE


class Boundaries(NamedTuple):
    """What one set of curves shows, or each of many.

    Attributes:
        begins, ends: first and last depth of the compression phase, NaN where there is none.
        compressed: every depth that is compressed as the phase is, also outside of it.
        emergence, dissipation: the share of each layer that is one, NaN of the others; ``None`` for curves
            without writes.
    """

    begins: Float[np.ndarray, "*curve"]
    ends: Float[np.ndarray, "*curve"]
    compressed: Bool[np.ndarray, "*curve depth"]
    emergence: Float[np.ndarray, "*curve layer"] | None
    dissipation: Float[np.ndarray, "*curve layer"] | None

    @property
    def span(self) -> tuple[int, int] | None:
        """The compression phase of a single set of curves."""
        return None if np.isnan(self.begins) else (int(self.begins), int(self.ends))


def boundary_curves(data: xr.Dataset) -> list[Float[np.ndarray, "prompt place"]]:
    """What boundaries are read from, of every prompt.

    kappa clipped at -1, whether the sink outweighs all others, and its norm and writes if there are any.
    """
    kappa = typical_compression(sink_compression(data)).transpose("prompt", ...)
    outweighs = outweighs_others(data)
    heavier = 0 * kappa if outweighs is None else outweighs.transpose("prompt", ...)
    writes = [by_prompt(data, name) for name in _WRITES] if "mlp_write_norm" in data else []
    return [kappa.values, heavier.values.astype(np.float64), *writes]


def boundaries(
    curves: Sequence[Float[np.ndarray, "*curve place"]],
    thresholds: Thresholds = Thresholds(),  # noqa: B008  (frozen)
    low: Float[np.ndarray, "*curve depth"] | None = None,
) -> Boundaries:
    """The boundaries of each set of curves: those of ``boundary_curves``, or means of them.

    Args:
        low: lower ends of kappa, which must be above 0 in the phase.
    """
    kappa, heavier, *writes = curves
    begins, ends, compressed = compression_span(kappa, low, thresholds.min_compression)
    if not writes:
        return Boundaries(begins, ends, compressed, None, None)
    # Long prompts dilute a token that is massive all the same: it has layers, and no phase.
    massive = np.where(np.isnan(begins)[..., None], heavier > 0.5, compressed)
    layers = _named_layers(massive, *writes, min_share=thresholds.min_share)
    return Boundaries(begins, ends, compressed, *layers)


def means_and_low(
    curves: Sequence[Float[np.ndarray, "prompt place"]], n_resamples: int = 999, seed: int = 0
) -> tuple[list[Float[np.ndarray, "place"]], Float[np.ndarray, "depth"] | None]:
    """Means over prompts of ``boundary_curves``, and the lower end of kappa; one prompt has no such end."""
    kappa = curves[0][~np.isnan(curves[0]).all(1)]
    low = bootstrap_interval(kappa, n_resamples=n_resamples, seed=seed)[0] if len(kappa) > 1 else None
    return [mean_of_prompts(curve) for curve in curves], low


def _named_layers(
    massive: Bool[np.ndarray, "*curve depth"],
    norm: Float[np.ndarray, "*curve depth"],
    mlp_along: Float[np.ndarray, "*curve layer"],
    attention_along: Float[np.ndarray, "*curve layer"],
    min_share: float,
) -> tuple[Float[np.ndarray, "*curve layer"], Float[np.ndarray, "*curve layer"]]:
    """Shares of emergence and dissipation layers, NaN elsewhere; of one set of curves or of many.

    A write is held against the norm at the depth where the next run of massive depths begins; within a run
    against the largest norm of that run; what turns the token without making it larger is none. A loss is
    held against the largest norm since the run began.
    """
    n_depths = norm.shape[-1]
    so_far, to_come = np.full((2, *norm.shape), np.nan)
    for depth in range(n_depths):  # largest norm since the last run began, also behind its end
        before = so_far[..., depth - 1] if depth else np.full(norm.shape[:-1], np.nan)
        begins = massive[..., depth] & ~(massive[..., depth - 1] if depth else False)
        goes_on = np.where(massive[..., depth], np.fmax(before, norm[..., depth]), before)
        so_far[..., depth] = np.where(begins, norm[..., depth], goes_on)
    against = np.full(norm.shape, np.nan)
    behind = np.full(norm.shape[:-1], np.nan)
    for depth in reversed(range(n_depths)):
        inside = massive[..., depth]
        next_inside = massive[..., depth + 1] if depth + 1 < n_depths else np.zeros_like(inside)
        # The largest of the whole run is known where it ends; ``behind`` is the start of the next run.
        to_come[..., depth] = np.where(
            next_inside, to_come[..., min(depth + 1, n_depths - 1)], so_far[..., depth]
        )
        begins = inside & ~(massive[..., depth - 1] if depth else False)
        against[..., depth] = np.where(inside & ~begins, to_come[..., depth], behind)
        against[..., depth] = np.where(begins, norm[..., depth], against[..., depth])
        behind = np.where(begins, norm[..., depth], behind)
    with np.errstate(invalid="ignore", divide="ignore"):
        change = np.diff(norm, axis=-1)
        written = np.where(change > 0, (mlp_along + attention_along) / against[..., 1:], np.nan)
        removed = change / so_far[..., :-1]
    return np.where(written >= min_share, written, np.nan), np.where(removed <= -min_share, removed, np.nan)


def emergence_stages(profile: ProfileLike, **thresholds: float) -> list[Stage]:
    """Layers that write at least ``min_share`` of the sink token's norm, in order.

    Onset layers write that share of the norm at the first compressed depth, later stages of the largest norm
    within the phase; where it is compressed again behind the phase, the same holds there. Read from the means
    over prompts of the writes along the state they leave behind. Empty when nothing is massive: kappa stays
    below ``min_compression``, and the sink's row nowhere outweighs all others (c > p_1(rest)).

    Raises:
        InputError: for a profile without writes, or several profiles at once.
    """
    return stages(profile, **thresholds)[0]


def dissipation_stages(profile: ProfileLike, **thresholds: float) -> list[Stage]:
    """Layers that take at least ``min_share`` of the sink token's largest norm away, in order.

    The share is the fall of the norm itself: a write that removes nearly all of a state has no fixed
    direction along the little that it leaves behind. The larger write is named. Where compression ends
    without such a layer, the others grow: see ``ratio_changes``.

    Raises:
        InputError: for a profile without writes, or several profiles at once.
    """
    return stages(profile, **thresholds)[1]


def emergence_layers(profile: ProfileLike, **thresholds: float) -> list[int]:
    """The layers of ``emergence_stages``."""
    return [stage.layer for stage in emergence_stages(profile, **thresholds)]


def dissipation_layers(profile: ProfileLike, **thresholds: float) -> list[int]:
    """The layers of ``dissipation_stages``."""
    return [stage.layer for stage in dissipation_stages(profile, **thresholds)]


def stages(profile: ProfileLike, **thresholds: float) -> tuple[list[Stage], list[Stage]]:
    """Emergence and dissipation stages; see the two functions of these names."""
    data = dataset_of(profile)
    if "mlp_write_norm" not in data:
        raise InputError("this profile has no writes (its self-check failed): no layers to name")
    means, low = means_and_low(boundary_curves(data))
    return stages_of(data, boundaries(means, Thresholds(**thresholds), low))


def stages_of(data: xr.Dataset, of_mean: Boundaries) -> tuple[list[Stage], list[Stage]]:
    """The stages that the means over prompts have."""
    named = []
    for shares, kind in ((of_mean.emergence, "along"), (of_mean.dissipation, "norm")):
        assert shares is not None
        mlp, attention = (over_prompts(data, f"{write}_write_{kind}") for write in ("mlp", "attention"))
        named.append(
            [
                Stage(layer, "mlp" if mlp[layer] >= attention[layer] else "attention", float(shares[layer]))
                for layer in np.flatnonzero(~np.isnan(shares)).tolist()
            ]
        )
    return named[0], named[1]


def ratio_changes(profile: ProfileLike) -> pd.DataFrame:
    """Is the token removed, or do the others outgrow it? A row a layer, in natural logarithms.

    ``ratio`` is the change of the log norm ratio over the layer, ``sink`` that of the sink token's log norm,
    ``others`` minus that of the others' log mean norm: ``ratio = sink + others`` for each prompt, and so for
    the means over prompts that are given.
    """
    data = dataset_of(profile)
    norm, ratio = (by_prompt(data, f"log_{name}") for name in ("sink_norm", "norm_ratio"))
    change = {"ratio": np.diff(ratio), "sink": np.diff(norm), "others": np.diff(ratio - norm)}
    table = pd.DataFrame({name: mean_of_prompts(values) for name, values in change.items()})
    return table.rename_axis("layer")
