"""Bootstrap intervals over prompts: how far a statistic would move if other prompts had been drawn.

scipy.stats.bootstrap knows no missing prompts, no means as one matrix product (a resample is a row of
counts), and no tails that are honest with few prompts. The tests hold this module against it.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtrit

from mcr_lens.errors import InputError
from mcr_lens.validate import check_resampling

__all__ = [
    "bootstrap_ends",
    "bootstrap_interval",
    "bootstrap_ratio",
    "cluster_numbers",
    "mean_of_prompts",
    "prompts_with_values",
    "resample_blocks",
    "resampled_means",
    "sums_by_cluster",
]

# Numbers held at once: 32 MB of float64, so that no number of prompts or resamples fills the memory.
_BLOCK = 2**22


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    *,
    confidence: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
    cluster: ArrayLike | None = None,
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """The expanded percentile interval of a statistic over prompts, in the unit of the statistic.

    Prompts are drawn anew with replacement, ``n_resamples`` times, whole prompts at a time: the same
    prompts for every column. The interval runs between the order statistics of the resampled values
    that leave ``a'`` of them outside at each end::

        a' = Phi(sqrt(n / (n - 1)) * t_{n-1}((1 - confidence) / 2))

    (Hesterberg 2015, The American Statistician 69, 371-386): resampled means vary by (n - 1) / n too little,
    and the spread itself is estimated. In simulations it covered the truth at least as often as scipy's
    percentile and BCa intervals (8 normal draws: 0.95 against 0.89, at 0.95 stated). Unlike BCa it exists for
    statistics that take few values, such as a layer, and its ends are values that the statistic took. It
    covers too seldom with fewer than 8 prompts (0.91 with 5), and where prompts are strongly skewed (0.88
    with 20 lognormal draws).

    Args:
        values: ``(prompt, ...)``. NaN is a missing prompt: the mean leaves it out in each column by itself;
            for other statistics only prompts without any value are left out, so give ``np.nanmedian``.
        statistic: with a parameter ``axis``, as NumPy's: called on many resamples at once,
            ``(resample, prompt, ...)``, with ``axis=1``. Without: called on one resample
            ``(prompt, ...)`` at a time; any shape may be returned. Resamples in which it is NaN are left out.
        confidence: coverage aimed at, between 0 and 1.
        n_resamples: number of resamples.
        seed: the same seed draws the same prompts.
        cluster: a label for each prompt; for means. Whole clusters are drawn, and ``n`` counts clusters:
            prompts of one template or document are near-copies, and prompts drawn singly would cover the
            truth far too seldom (0.43 to 0.65 at 0.95 stated, for clusters of four).

    Returns:
        ``low`` and ``high``, each of the shape of the statistic. Both NaN where there are fewer than two
        values.

    Raises:
        InputError: without any value, for infinite values, or for options out of range.

    Example:
        >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0, float("nan"), 5.0, 6.0, 7.0])
        >>> round(float(low), 1), round(float(high), 1)
        (2.0, 6.0)
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 0:
        raise InputError("one number has no interval: give an array with prompts first")
    valued = has_values(table)
    if not valued.any():
        raise InputError("no prompt has a value: nothing to resample")
    units = None if cluster is None else cluster_numbers(cluster, len(table))[valued]
    table = table[valued]
    if statistic is np.mean or statistic is np.nanmean:
        resampled = resampled_means(table, confidence, n_resamples, seed, units)
        return bootstrap_ends(resampled, (sums_by_cluster(~np.isnan(table), units) > 0).sum(0), confidence)
    if units is not None:
        raise InputError("cluster: only means have intervals by cluster")
    rng = _generator(table, confidence, n_resamples, seed)
    takes_axis = "axis" in inspect.signature(statistic).parameters
    resampled = []
    for start, stop in resample_blocks(n_resamples, table.size):
        tables = table[rng.integers(len(table), size=(stop - start, len(table)))]
        resampled.extend(statistic(tables, axis=1) if takes_axis else map(statistic, tables))
    return bootstrap_ends(np.asarray(resampled, dtype=np.float64), len(table), confidence)


def bootstrap_ratio(
    sums: Float[np.ndarray, "unit column"],
    counts: Float[np.ndarray, "unit column"] | Float[np.ndarray, "unit 1"],
    *,
    confidence: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
    cluster: Int[np.ndarray, "unit"] | None = None,
) -> tuple[Float[np.ndarray, "column"], Float[np.ndarray, "column"]]:
    """The interval, as ``bootstrap_interval``'s, of a ratio of sums over units drawn anew as a whole.

    Raises:
        InputError: for infinite sums, or for options out of range.
    """
    means = resampled_means(np.column_stack([sums, counts]), confidence, n_resamples, seed, cluster)
    columns = sums.shape[1]
    with np.errstate(invalid="ignore"):  # 0 / 0 where no unit that was drawn counts
        ratios = means[:, :columns] / means[:, columns:]
    n_units = len(sums) if cluster is None else len(np.unique(cluster))
    return bootstrap_ends(ratios, np.full(columns, n_units), confidence)


def resample_blocks(n_resamples: int, width: int) -> Iterator[tuple[int, int]]:
    """``(start, stop)`` of blocks of resamples of ``width`` numbers each that fit into memory."""
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, n_resamples, step):
        yield start, min(start + step, n_resamples)


def has_values(table: Float[np.ndarray, "prompt ..."]) -> Bool[np.ndarray, "prompt"]:
    """Which prompts have any value."""
    if not table.size:
        return np.zeros(len(table), dtype=bool)
    present = ~np.isnan(table.reshape(len(table), -1))
    return np.asarray(present.any(axis=1))


def prompts_with_values(table: Float[np.ndarray, "prompt ..."]) -> Float[np.ndarray, "prompt ..."]:
    """The prompts that have any value: the others are not drawn."""
    return table[has_values(table)]


def cluster_numbers(cluster: ArrayLike, n_prompts: int) -> Int[np.ndarray, "prompt"]:
    """Labels as numbers 0, 1, ...

    Raises:
        InputError: unless there is one label for each prompt.
    """
    labels = np.asarray(cluster)
    if labels.shape != (n_prompts,):
        raise InputError(f"cluster of shape {labels.shape}: give one label for each of {n_prompts} prompts")
    return np.unique(labels, return_inverse=True)[1]


def sums_by_cluster(
    table: Num[np.ndarray, "prompt ..."] | Bool[np.ndarray, "prompt ..."],
    cluster: Int[np.ndarray, "prompt"] | None,
) -> Float[np.ndarray, "unit ..."]:
    """Sums over the prompts of each cluster; the table itself without clusters."""
    if cluster is None:
        return table.astype(np.float64)
    places = np.unique(cluster, return_inverse=True)[1]
    sums = np.zeros((places.max(initial=-1) + 1, *table.shape[1:]))
    np.add.at(sums, places, table)
    return sums


def mean_of_prompts(table: Float[np.ndarray, "prompt ..."]) -> Float[np.ndarray, "..."]:
    """Mean along the first axis, NaN left out; NaN where all are."""
    used = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return np.where(used, table, 0.0).sum(0) / used.sum(0)


def resampled_means(
    table: Float[np.ndarray, "prompt ..."],
    confidence: float,
    n_resamples: int,
    seed: int,
    cluster: Int[np.ndarray, "prompt"] | None = None,
) -> Float[np.ndarray, "resample ..."]:
    """Means of prompts, or whole clusters of them, drawn anew, NaN left out: one product for each block.

    Raises:
        InputError: for infinite values, or options out of range.
    """
    rng = _generator(table, confidence, n_resamples, seed)
    columns = table.reshape(len(table), -1)
    present = ~np.isnan(columns)
    # Counted from the smallest value, so that equal values give exactly that value again.
    smallest = np.where(present, columns, np.inf).min(0)
    above = sums_by_cluster(np.where(present, columns - smallest, 0.0), cluster)
    used = sums_by_cluster(present, cluster)
    n = len(used)
    means = np.empty((n_resamples, columns.shape[1]))
    for start, stop in resample_blocks(n_resamples, max(columns.shape)):
        rows = np.arange(stop - start)[:, None]
        draws = rng.integers(n, size=(stop - start, n)) + n * rows
        counts = np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape).astype(np.float64)
        with np.errstate(invalid="ignore"):  # 0 / 0 where a column's few values were not drawn
            means[start:stop] = smallest + (counts @ above) / (counts @ used)
    return means.reshape(n_resamples, *table.shape[1:])


def bootstrap_ends(
    resampled: Float[np.ndarray, "resample ..."], n: int | Int[np.ndarray, "..."], confidence: float
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Order statistics with the share ``a'`` outside, rounded outwards; NaN for fewer than two prompts."""
    several = np.maximum(n, 2)
    tail = ndtr(np.sqrt(several / (several - 1)) * stdtrit(several - 1, (1 - confidence) / 2))
    last = np.maximum((~np.isnan(resampled)).sum(0) - 1, 0)
    outside = np.floor(tail * last).astype(np.intp)
    resampled = np.sort(resampled, axis=0)  # NaN last
    low, high = (
        np.where(n < 2, np.nan, np.take_along_axis(resampled, np.asarray(place)[None], axis=0)[0])
        for place in (outside, last - outside)
    )
    return low[()], high[()]


def _generator(table: np.ndarray, confidence: float, n_resamples: int, seed: int) -> np.random.Generator:
    """What draws the prompts, once options and values are known to be in range."""
    check_resampling(confidence, n_resamples, seed)
    if infinite := int(np.isinf(table).sum()):
        raise InputError(
            f"{infinite} values are infinite and have no interval: set them to NaN, or leave intervals out "
            "with confidence=None where a call has it"
        )
    return np.random.default_rng(seed)
