"""The best depth for each use, the exit it implies, and how sure either is."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from mcr_lens.errors import InputError
from mcr_lens.experiments.tasks.uses import Use
from mcr_lens.stats.bootstrap import bootstrap_ends, bootstrap_ratio
from mcr_lens.validate import check_resampling

__all__ = ["best_depth", "quality_by_depth"]


_EXIT = ("exit_depth", "exit_low", "exit_high", "exit_kept", "blocks_saved", "saved")
_DEPTHS = ("best_low", "best_high", "exit_depth", "exit_low", "exit_high", "blocks_saved")


def quality_by_depth(
    uses: Sequence[Use], *, confidence: float = 0.95, n_resamples: int = 999, seed: int = 0
) -> pd.DataFrame:
    """Every use at every depth, one row each: ``quality`` in its own metric, interval, and what is ``kept``.

    ``kept`` is the share of the last depth's quality above chance: 0 as good as chance, 1 as good as the last
    depth; NaN where chance is not known or the last depth is no better. The interval resamples units.

    Raises:
        InputError: for no uses, or options out of range.
    """
    tables = []
    for use in _checked(uses, confidence, n_resamples, seed):
        weights = use.weights[:, None]
        low, high = bootstrap_ratio(
            weights * use.values, weights, confidence=confidence, n_resamples=n_resamples, seed=seed
        )
        curve = use.curve().to_numpy()
        columns = {
            "use": use.name,
            "kind": use.kind,
            "metric": use.metric,
            "depth": use.depths,
            "quality": curve,
            "low": low,
            "high": high,
            "kept": _shares_of_last(curve, use),
            "units": len(use.weights),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def best_depth(
    uses: Sequence[Use],
    keep: float = 0.95,
    *,
    confidence: float = 0.95,
    n_resamples: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """Where each use is best served, against the last depth, and how early one could stop.

    The best of many depths looks better than it is on the units that chose it. So ``gain`` over the last
    depth is measured out of the bag: each resample chooses its best depth by the units that it drew
    and is judged by those that it did not. ``exit_depth`` is the first depth whose quality keeps at least
    ``keep`` of the last depth's above chance; it saves the blocks behind it.

    Intervals run between expanded percentiles (``bootstrap_interval``). Where depths tie in a resample,
    ``best_low`` counts the first of them and ``best_high`` the last. How often they cover the truth stands in
    docs/how-to/tasks.md.

    Args:
        uses: from ``.uses()`` of the results of tasks.
        keep: share of the last depth's quality, in (0, 1].
        confidence, n_resamples, seed: of the bootstrap over units.

    Returns:
        One row per use: ``best_depth`` with interval ``best_low``, ``best_high`` and ``best_quality``;
        ``last_depth``, ``last_quality``; ``gain``, ``gain_low``, ``gain_high`` in the unit of the metric,
        above 0 where the best depth is better; ``exit_depth``, ``exit_low``, ``exit_high``, ``exit_kept``
        and ``blocks_saved`` with its share ``saved``. Exits are missing where chance is not known or the last
        depth is not surely better.

    Raises:
        InputError: for no uses, or options out of range.
    """
    if not 0 < keep <= 1:
        raise InputError(f"keep {keep}: use a share above 0 and up to 1, such as 0.95")
    resampling = (confidence, n_resamples, seed)
    rows = [_row(use, keep, *resampling) for use in _checked(uses, *resampling)]
    # Depths are whole numbers, also where one is missing.
    return pd.DataFrame(rows).set_index("use").astype(dict.fromkeys(_DEPTHS, "Int64"))


def _row(use: Use, keep: float, confidence: float, n_resamples: int, seed: int) -> dict[str, object]:
    def ends(resampled: Float[np.ndarray, "resample"]) -> tuple[float, float]:
        """Expanded percentiles, resamples without a value left out."""
        low, high = bootstrap_ends(resampled, np.asarray(len(use.weights)), confidence)
        return float(low), float(high)

    curve, depths = use.curve().to_numpy(), use.depths
    in_bag, out_of_bag = _resampled(use, n_resamples, seed)
    best, last = int((use.sign * curve).argmax()), int(depths[-1])
    winners = (use.sign * in_bag).argmax(1)
    gains = use.sign * (out_of_bag[np.arange(n_resamples), winners] - out_of_bag[:, -1])
    gain_low, gain_high = ends(gains)
    firsts, lasts = _tied(use.sign * in_bag)
    row = {
        "use": use.name,
        "kind": use.kind,
        "metric": use.metric,
        "best_depth": int(depths[best]),
        "best_low": depths[int(ends(firsts)[0])],
        "best_high": depths[int(ends(lasts)[1])],
        "best_quality": float(curve[best]),
        "last_depth": last,
        "last_quality": float(curve[-1]),
        "gain": float(np.nanmean(gains)),
        "gain_low": gain_low,
        "gain_high": gain_high,
        **dict.fromkeys(_EXIT, np.nan),
        "units": len(use.weights),
    }
    shares = _shares_of_last(curve, use)
    exit_at = _exit(shares, keep)
    # A last depth that may be no better than chance has nothing that could be kept.
    if not np.isnan(exit_at) and ends(use.sign * (in_bag[:, -1] - use.chance))[0] > 0:
        exits = (exit_at, *ends(np.array([_exit(_shares_of_last(one, use), keep) for one in in_bag])))
        at, low, high = (int(depths[int(place)]) for place in exits)
        values = (at, low, high, float(shares[int(exit_at)]), last - at, (last - at) / last)
        row |= dict(zip(_EXIT, values, strict=True))
    return row


def _resampled(
    use: Use, n_resamples: int, seed: int
) -> tuple[Float[np.ndarray, "resample depth"], Float[np.ndarray, "resample depth"]]:
    """The curve over the units that each resample drew, and over those that it did not (NaN of none)."""
    n = len(use.weights)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    in_bag, out_of_bag = counts * use.weights, (counts == 0) * use.weights
    with np.errstate(invalid="ignore"):  # 0 / 0 where every unit was drawn
        curves_out_of_bag = out_of_bag @ use.values / out_of_bag.sum(1, keepdims=True)
    return in_bag @ use.values / in_bag.sum(1, keepdims=True), curves_out_of_bag


def _shares_of_last(curve: Float[np.ndarray, "depth"], use: Use) -> Float[np.ndarray, "depth"]:
    """Share of the last depth's distance from chance."""
    above = use.sign * (curve - use.chance)
    return above / above[-1] if above[-1] > 0 else np.full(len(curve), np.nan)


def _exit(shares: Float[np.ndarray, "depth"], keep: float) -> float:
    """Place of the first depth that keeps enough; NaN where nothing is known."""
    places = np.flatnonzero(shares >= keep)
    return float(places[0]) if len(places) else float("nan")


def _tied(quality: Float[np.ndarray, "resample depth"]) -> tuple[np.ndarray, np.ndarray]:
    """Places of the first and the last of the best depths of each resample, equal up to rounding."""
    top = quality.max(1, keepdims=True)
    tied = top - quality <= 1e-9 * np.abs(quality).max(1, keepdims=True)
    return tied.argmax(1).astype(float), quality.shape[1] - 1.0 - tied[:, ::-1].argmax(1)


def _checked(uses: Sequence[Use], confidence: float, n_resamples: int, seed: int) -> Sequence[Use]:
    check_resampling(confidence, n_resamples, seed)
    if not uses:
        raise InputError("no uses: give those of .uses() of the results of tasks")
    names = [use.name for use in uses]
    if len(set(names)) < len(names):
        raise InputError(f"uses {names}: give each another name")
    if single := [use.name for use in uses if len(use.weights) < 2]:
        raise InputError(f"{single[0]}: one unit has no interval, give two or more")
    return uses
