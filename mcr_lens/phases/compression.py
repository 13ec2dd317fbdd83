"""The definition of the compression phase, for one pair of curves or for many at once."""

import numpy as np
from jaxtyping import Float, Int

__all__ = ["MIN_ENTROPY_DROP", "MIN_NORM_RATIO", "compression_span", "entropy_fall", "other_valleys"]

MIN_NORM_RATIO = 10.0
MIN_ENTROPY_DROP = 0.1


def entropy_fall(entropy: Float[np.ndarray, "*curve depth"]) -> Float[np.ndarray, "*curve depth"]:
    """How far normalized entropy lies below its highest value at or before each depth."""
    return np.fmax.accumulate(entropy, axis=-1) - entropy


def compression_span(
    ratio: Float[np.ndarray, "*curve depth"],
    entropy: Float[np.ndarray, "*curve depth"],
    min_norm_ratio: float = MIN_NORM_RATIO,
    min_entropy_drop: float = MIN_ENTROPY_DROP,
) -> tuple[Float[np.ndarray, "*curve"], Float[np.ndarray, "*curve"]]:
    """First and last depth of the compression phase; NaN where there is none.

    There is one when normalized entropy lies at least ``min_entropy_drop`` below its highest value
    before, at a depth whose norm ratio is at least ``min_norm_ratio``. It is the run of depths around
    the deepest such fall that keep at least half of it.
    """
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
    min_norm_ratio: float = MIN_NORM_RATIO,
    min_entropy_drop: float = MIN_ENTROPY_DROP,
) -> list[tuple[int, int]]:
    """Further runs of depths that would be compression phases, did the deepest fall not lie elsewhere.

    They too keep at least half of that fall, and hold a depth that is massive and compressed by the same
    two thresholds.
    """
    first, last = compression_span(ratio, entropy, min_norm_ratio, min_entropy_drop)
    if np.isnan(first):
        return []
    fall = entropy_fall(entropy)
    deep = fall >= np.nanmax(fall[int(first) : int(last) + 1]) / 2
    massive = (ratio >= min_norm_ratio) & (fall >= min_entropy_drop)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], deep, [False]]).astype(int)))
    runs = [(int(begin), int(end) - 1) for begin, end in edges.reshape(-1, 2)]
    return [run for run in runs if run[0] != first and massive[run[0] : run[1] + 1].any()]
