"""Does what a layer does to the norm go with what happens to entropy, sinks and mixing at that depth?"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from mcr_lens.errors import InputError
from mcr_lens.phases.curves import ProfileLike, by_prompt, dataset_of
from mcr_lens.stats.bootstrap import bootstrap_ends, bootstrap_interval, resampled_means
from mcr_lens.stats.paired import adjusted
from mcr_lens.stats.shift_test import FEWEST, correlation, shift_test
from mcr_lens.validate import check_resampling

__all__ = ["OUTCOMES", "correlations"]

OUTCOMES = ("normalized_entropy", "sink_rate", "mixing_score")
_METHODS = ("pearson", "spearman")
_LEVELS = ("pooled", "per prompt")
_NORMS = ("sink_norm", "norm_ratio")


def correlations(
    profile: ProfileLike,
    *,
    norm: Literal["sink_norm", "norm_ratio"] = "sink_norm",
    outcomes: Sequence[str] = OUTCOMES,
    methods: Sequence[str] = _METHODS,
    correction: Literal["by", "bh", "holm"] = "holm",
    confidence: float = 0.95,
    n_resamples: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlation over depth of the change of norm with the change of entropy, sink rate and mixing.

    **What changes where.** The change of the norm at depth ``d`` is ``ln norm(d) - ln norm(d - 1)``, what
    block ``d - 1`` does to the sink token's norm, or to its ratio to the others. Entropy changes in the same
    way. A layer's sink rate and mixing score (means over heads) stand at the depth that the layer reads. So
    a norm written by block ``d - 1`` and sinks that appear in the next layer, the first that can see it,
    change together; the last depth is left out for them.

    **Two levels.** ``"pooled"`` is the correlation of the changes averaged over prompts. ``"per prompt"`` is
    the mean over prompts of each prompt's own correlation, and ``sd`` how these differ.

    **Two uncertainties.** ``low`` and ``high`` are bootstrap intervals over prompts: other prompts, the same
    model. ``p`` asks whether changes along depth could go together by chance. There the unit is the depth,
    and its neighbours are alike: one series is shifted along the other, in all prompts alike::

        p = share of the n shifts, 0 included, with |r| at least that observed

    (the larger of two such shares, see ``mcr_lens.stats.shift_test``). This holds for series that are alike
    all along the depth. Where both change most in the first and last layers, for reasons of their own, p is
    too small: in simulations it fell below 0.05 in a third of the draws. Look at the curves before believing
    it. ``smallest_p = 1 / n`` is 0.1 for a model of 10 layers, 0.03 for one of 32.
    **One model of few layers cannot show such a correlation to be significant, however large it is.**
    ``p_adjusted`` corrects for the number of outcomes within a level and a method. Levels and methods are
    four readings of the same questions: choose one before looking.

    Args:
        norm: ``"sink_norm"`` or ``"norm_ratio"``.
        outcomes: some of the three, or other variables along depth or layer. Those of attention are left
            out by default when the profile has none.
        methods: ``"pearson"``, ``"spearman"`` or both.
        correction: see ``mcr_lens.stats.adjusted``. With so few outcomes Holm's costs less than ``"by"``.
        confidence: coverage aimed at by the intervals.
        n_resamples, seed: of the bootstrap; all shifts are always used.

    Returns:
        A row ``(level, outcome, method)``; columns ``r``, ``low``, ``high``, ``sd``, ``p``, ``p_adjusted``,
        ``smallest_p``, ``n_changes`` (depths) and ``n_prompts``. NaN where a series does not change, has
        fewer than 3 changes or holds NaN; intervals are NaN with one prompt. Options are in ``attrs``.

    Raises:
        InputError: for unknown names, several profiles at once, or options out of range.

    Source: the paper reports r = -0.9 with entropy and 0.58 with the sink rate over six models, without
    p-values.
    """
    check_resampling(confidence, n_resamples, seed)
    if norm not in _NORMS:
        raise InputError(f"norm {norm!r}: use 'sink_norm' or 'norm_ratio'")
    if not methods or any(method not in _METHODS for method in methods):
        raise InputError(f"methods {list(methods)}: use 'pearson', 'spearman' or both")
    if not outcomes:
        raise InputError(f"no outcomes: give some of {', '.join(OUTCOMES)}")
    data = dataset_of(profile)
    if outcomes is OUTCOMES and "sink_score" not in data:
        outcomes = OUTCOMES[:1]
    norm_changes = np.diff(by_prompt(data, f"log_{norm}"))
    resampling: dict[str, Any] = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    rows = {}
    for outcome in outcomes:
        x, y = _pairs(norm_changes, np.diff(by_prompt(data, outcome)))
        for method, level in itertools.product(methods, _LEVELS):
            rows[level, outcome, method] = _row(x, y, level, method, **resampling)
    index = pd.MultiIndex.from_tuples(rows, names=["level", "outcome", "method"])
    table = pd.DataFrame(list(rows.values()), index=index).loc[list(_LEVELS)]
    readings = table.groupby(["level", "method"]).p
    table.insert(5, "p_adjusted", readings.transform(lambda p: adjusted(p, correction)))
    table.attrs = {
        "norm": f"log {norm}",
        "correction": correction,
        "p": "by all shifts along depth, of series alike all along it; never below smallest_p",
        **resampling,
    }
    return table


def _pairs(
    x: Float[np.ndarray, "prompt place"], y: Float[np.ndarray, "prompt place"]
) -> tuple[np.ndarray, np.ndarray]:
    """Both to the same depths, of the prompts that have all of them; ends that no prompt has are cut off."""
    n = min(x.shape[1], y.shape[1])
    x, y = x[:, :n], y[:, :n]
    measured = np.flatnonzero(~(np.isnan(x) | np.isnan(y)).all(0))
    if len(measured):
        x, y = (series[:, measured[0] : measured[-1] + 1] for series in (x, y))
    complete = ~(np.isnan(x) | np.isnan(y)).any(1)
    return x[complete], y[complete]


def _row(
    x: Float[np.ndarray, "prompt place"],
    y: Float[np.ndarray, "prompt place"],
    level: str,
    method: str,
    confidence: float,
    n_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """One line of the table; NaN for what is not known."""
    n_prompts, n = x.shape
    row: dict[str, Any] = dict.fromkeys(("r", "low", "high", "sd", "p"), np.nan)
    row |= {"smallest_p": 1 / n if n >= FEWEST else np.nan, "n_changes": n, "n_prompts": n_prompts}
    if n < FEWEST or not n_prompts:
        return row

    def of_means(means: np.ndarray) -> np.ndarray:
        return correlation(_ranked(means[..., :n], method), _ranked(means[..., n:], method))

    if level == "pooled":
        both = np.concatenate([x, y], axis=1)
        x, y = x.mean(0, keepdims=True), y.mean(0, keepdims=True)
        row["r"] = float(of_means(both.mean(0)))
        if n_prompts > 1:
            resampled = of_means(resampled_means(both, confidence, n_resamples, seed))
            row["low"], row["high"] = map(float, bootstrap_ends(resampled, n_prompts, confidence))
    x, y = _ranked(x, method), _ranked(y, method)
    if level == "per prompt":
        own = correlation(x, y)
        own = own[~np.isnan(own)]
        row["n_prompts"] = len(own)
        if not len(own):
            return row
        ends = bootstrap_interval(own, confidence=confidence, n_resamples=n_resamples, seed=seed)
        row["low"], row["high"] = map(float, ends)
        row |= {"r": own.mean(), "sd": own.std(ddof=1) if len(own) > 1 else np.nan}
    row["p"], _ = shift_test(x, y)
    return row


def _ranked(series: Float[np.ndarray, "*set place"], method: str) -> Float[np.ndarray, "*set place"]:
    """Ranks for Spearman's correlation; rates that differ by rounding alone are ties."""
    return rankdata(series.round(12), axis=-1) if method == "spearman" else series
