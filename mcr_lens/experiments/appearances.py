"""When in training the massive norm, the valley and the sinks appear, and whether they appear together."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from mcr_lens.errors import InputError
from mcr_lens.phases import MIN_ENTROPY_DROP, MIN_NORM_RATIO
from mcr_lens.results import Profile
from mcr_lens.stats.bootstrap import bootstrap_interval

__all__ = ["Appearance", "appearance"]

# What has to be there at the last step, or there is nothing whose appearance could be dated.
_LEAST = {"norm ratio": MIN_NORM_RATIO, "valley": MIN_ENTROPY_DROP, "sinks": 0.05}


@dataclass(frozen=True)
class Appearance:
    """When what appeared.

    Attributes:
        dates: a row a quantity: its ``level`` at the last step, the ``step`` at which it appears with the
            checkpoint before it (``after``: it happened between the two), and the bootstrap interval
            ``low``, ``high`` of that step. NaN for what is not there at the end.
        lags: a row a pair: by how many checkpoints the second appears later than the first, with the
            interval, and the same ``factor`` in steps; ``together`` when the interval holds no lag of more
            than one checkpoint.
    """

    dates: pd.DataFrame
    lags: pd.DataFrame

    def __str__(self) -> str:
        return "\n".join([*map(_dated, self.dates.itertuples()), *map(_compared, self.lags.itertuples())])


def appearance(
    run: Profile,
    share: float = 0.5,
    *,
    confidence: float = 0.95,
    n_resamples: int = 999,
    seed: int = 0,
) -> Appearance:
    """Date the norm, the valley and the sinks along the training steps.

    The level of each at a step, of means over prompts: the largest norm ratio of any depth, the largest
    fall of normalized entropy below its highest value at a lesser depth, the largest sink rate of any
    layer. It appears at the first step from which on its level stays at ``share`` or more of what it is
    at the last step. The interval resamples prompts; the resolution is that of the checkpoints.

    Args:
        run: from ``profile_training``, or any profile concatenated along ``"step"``.
        share: of the level at the last step, in (0, 1).

    Raises:
        InputError: for a profile without steps, or a share out of range.
    """
    if "step" not in run.data.dims or run.data.sizes["step"] < 2:
        raise InputError("appearance needs a profile with two or more steps: use profile_training")
    if not 0 < share < 1:
        raise InputError(f"share {share}: use a number between 0 and 1, such as 0.5")
    steps = run.data.step.values
    table = _per_prompt(run)
    names = list(_LEAST)
    pairs = list(combinations(range(len(names)), 2))

    def statistic(drawn: Float[np.ndarray, "prompt quantity step depth"]) -> Float[np.ndarray, "number"]:
        """Where each appears, and the lag of each pair, as indices of checkpoints."""
        at = _appear(_levels(drawn), share)
        return np.array([*at, *(at[second] - at[first] for first, second in pairs)])

    levels = _levels(table)
    found = statistic(table)
    low, high = bootstrap_interval(
        table, statistic, confidence=confidence, n_resamples=n_resamples, seed=seed
    )
    dates = [
        {"quantity": name, "level": float(levels[i, -1]), **_date(steps, found[i], low[i], high[i])}
        for i, name in enumerate(names)
    ]
    lags = []
    for (first, second), lag, least, most in zip(pairs, found[3:], low[3:], high[3:], strict=True):
        known = not np.isnan(lag)
        lags.append(
            {
                "first": names[first],
                "second": names[second],
                "checkpoints": lag,
                "low": least,
                "high": most,
                "factor": _factor(steps, found[first], found[second]),
                "together": bool(max(abs(least), abs(most)) <= 1) if known else None,
            }
        )
    return Appearance(pd.DataFrame(dates).set_index("quantity"), pd.DataFrame(lags))


def _per_prompt(run: Profile) -> Float[np.ndarray, "prompt quantity step depth"]:
    """The three curves of every prompt; sink rates stand at the depth that their layer reads."""
    ratio, entropy = (
        run[name].transpose("prompt", "step", "depth").values for name in ("norm_ratio", "normalized_entropy")
    )
    rate = np.full_like(ratio, np.nan)
    rate[..., : run.data.sizes["layer"]] = run.sink_rate().transpose("prompt", "step", "layer").values
    return np.stack([ratio, entropy, rate], axis=1)


def _levels(table: Float[np.ndarray, "prompt quantity step depth"]) -> Float[np.ndarray, "quantity step"]:
    """How far each has come at every step, of the mean curves."""
    there = ~np.isnan(table)
    with np.errstate(invalid="ignore"):  # 0 / 0 where no prompt has a value
        ratio, entropy, rate = np.where(there, table, 0).sum(0) / there.sum(0)
    fall = np.fmax.accumulate(entropy, axis=-1) - entropy
    return np.stack([np.fmax.reduce(curves, axis=-1) for curves in (ratio, fall, rate)])


def _appear(levels: Float[np.ndarray, "quantity step"], share: float) -> Float[np.ndarray, "quantity"]:
    """Index of the step from which on the level stays at its share; NaN for what is not there at the end."""
    final = levels[:, -1]
    enough = levels >= share * final[:, None]
    # From the end: for how many last steps it has held without a break.
    held = np.logical_and.accumulate(enough[:, ::-1], axis=-1).sum(-1)
    at = levels.shape[-1] - held.astype(float)
    return np.where(final >= list(_LEAST.values()), at, np.nan)


def _date(steps: np.ndarray, at: float, low: float, high: float) -> dict[str, float]:
    def step(index: float) -> float:
        return float("nan") if np.isnan(index) else float(steps[round(index)])

    return {
        "step": step(at),
        "after": float("nan") if np.isnan(at) or at < 1 else step(at - 1),
        "low": step(low if not np.isnan(at) else at),
        "high": step(high if not np.isnan(at) else at),
    }


def _factor(steps: np.ndarray, first: float, second: float) -> float:
    if np.isnan(first + second):
        return float("nan")
    one, other = (float(steps[round(at)]) for at in (first, second))
    return other / one if one > 0 else float("nan")


def _dated(row: tuple) -> str:
    name, level, step, after, low, high = row
    if np.isnan(step):
        return f"{name}: does not appear ({level:.2f} at the last step)"
    since = "there from the first checkpoint," if np.isnan(after) else f"after step {after:.0f}, by"
    return f"{name}: {since} step {step:.0f} [{low:.0f}, {high:.0f}] ({level:.2f} at the last step)"


def _compared(row: tuple) -> str:
    _, first, second, lag, low, high, _, together = row
    if np.isnan(lag):
        return f"{first} and {second}: cannot be compared, one of them does not appear"
    if together:
        order = "together"
    elif low > 0:
        order = f"{second} later"
    elif high < 0:
        order = f"{second} earlier"
    else:
        order = "order uncertain"
    return f"{first} and {second}: {order}, {lag:+.0f} checkpoints [{low:+.0f}, {high:+.0f}]"
