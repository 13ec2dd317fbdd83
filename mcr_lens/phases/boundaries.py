"""The compression phase and the layers that write or remove, of one set of curves or of many at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from mcr_lens.phases.curves import by_prompt

__all__ = [
    "MIN_ENTROPY_DROP",
    "MIN_NORM_RATIO",
    "MIN_SHARE",
    "WRITES",
    "Boundaries",
    "Thresholds",
    "boundaries",
    "boundary_curves",
    "compression_span",
    "entropy_fall",
    "named_layers",
    "other_valleys",
]

MIN_NORM_RATIO = 10.0
MIN_ENTROPY_DROP = 0.1
MIN_SHARE = 0.2
# What the layers are read from, in the order of ``named_layers``.
WRITES = ("norm_ratio", "sink_norm", "mlp_write_along", "attention_write_along")


class Thresholds(NamedTuple):
    """See ``find_phases``."""

    min_norm_ratio: float = MIN_NORM_RATIO
    min_entropy_drop: float = MIN_ENTROPY_DROP
    min_share: float = MIN_SHARE


class Boundaries(NamedTuple):
    """What one set of curves shows, or each of many.

    Attributes:
        begins, ends: first and last depth of the compression phase, NaN where there is none.
        layers: which are emergence and which dissipation layers; ``None`` for curves without writes.
    """

    begins: Float[np.ndarray, "*curve"]
    ends: Float[np.ndarray, "*curve"]
    layers: tuple[Bool[np.ndarray, "*curve layer"], Bool[np.ndarray, "*curve layer"]] | None

    @property
    def span(self) -> tuple[int, int] | None:
        """The compression phase of a single set of curves."""
        return None if np.isnan(self.begins) else (int(self.begins), int(self.ends))


def boundary_curves(data: xr.Dataset) -> list[Float[np.ndarray, "prompt place"]]:
    """What boundaries are read from, of every prompt: entropy, norm ratio, and writes if there are any."""
    names = WRITES if "mlp_write_norm" in data else WRITES[:1]
    return [by_prompt(data, name) for name in ("normalized_entropy", *names)]


def boundaries(curves: Sequence[Float[np.ndarray, "*curve place"]], thresholds: Thresholds) -> Boundaries:
    """The boundaries of each set of curves: those of ``boundary_curves``, or means of them."""
    entropy, ratio, *writes = curves
    begins, ends = compression_span(ratio, entropy, thresholds.min_norm_ratio, thresholds.min_entropy_drop)
    layers = (
        named_layers([ratio, *writes], thresholds.min_share, thresholds.min_norm_ratio) if writes else None
    )
    return Boundaries(begins, ends, layers)


def entropy_fall(entropy: Float[np.ndarray, "*curve depth"]) -> Float[np.ndarray, "*curve depth"]:
    """How far normalized entropy lies below its highest value at or before each depth."""
    return np.fmax.accumulate(entropy, axis=-1) - entropy


def compression_span(
    ratio: Float[np.ndarray, "*curve depth"],
    entropy: Float[np.ndarray, "*curve depth"],
    min_norm_ratio: float = MIN_NORM_RATIO,
    min_entropy_drop: float = MIN_ENTROPY_DROP,
) -> tuple[Float[np.ndarray, "*curve"], Float[np.ndarray, "*curve"]]:
    """First and last depth of the compression phase (see ``find_phases``); NaN where there is none."""
    fall = entropy_fall(entropy)
    massive = np.where((ratio >= min_norm_ratio) & ~np.isnan(fall), fall, -np.inf)
    bottom = massive.argmax(-1)[..., None]
    deepest = np.take_along_axis(massive, bottom, -1)
    outside = ~(fall >= deepest / 2)
    depth: Int[np.ndarray, "depth"] = np.arange(fall.shape[-1])
    first = np.where(outside & (depth < bottom), depth, -1).max(-1) + 1
    last = np.where(outside & (depth > bottom), depth, len(depth)).min(-1) - 1
    exists = deepest[..., 0] >= min_entropy_drop
    return np.where(exists, first, np.nan), np.where(exists, last, np.nan)


def other_valleys(
    ratio: Float[np.ndarray, "depth"],
    entropy: Float[np.ndarray, "depth"],
    span: tuple[int, int],
    thresholds: Thresholds,
) -> list[tuple[int, int]]:
    """Further runs of depths that would be compression phases, did the deepest fall not lie in ``span``.

    They too keep at least half of that fall, and hold a depth that is massive and compressed by the same
    two thresholds.
    """
    fall = entropy_fall(entropy)
    deep = fall >= np.nanmax(fall[span[0] : span[1] + 1]) / 2
    massive = (ratio >= thresholds.min_norm_ratio) & (fall >= thresholds.min_entropy_drop)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], deep, [False]]).astype(int)))
    runs = [(int(begin), int(end) - 1) for begin, end in edges.reshape(-1, 2)]
    return [run for run in runs if run[0] != span[0] and massive[run[0] : run[1] + 1].any()]


def named_layers(
    curves: Sequence[Float[np.ndarray, "*curve place"]],
    min_share: float = MIN_SHARE,
    min_norm_ratio: float = MIN_NORM_RATIO,
) -> tuple[Bool[np.ndarray, "*curve layer"], Bool[np.ndarray, "*curve layer"]]:
    """Which layers are emergence and which are dissipation layers (see ``emergence_stages``), of each set.

    ``curves`` are those of ``WRITES``, in that order; the first two along depth, the others along layer.
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
