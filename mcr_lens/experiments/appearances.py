"""When in training the massive norm, the valley and the sinks appear, and whether they appear together."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from mcr_lens.errors import InputError
from mcr_lens.phases.compression import MIN_COMPRESSION, typical_compression
from mcr_lens.results import Profile
from mcr_lens.stats.bootstrap import bootstrap_interval, mean_of_prompts
from mcr_lens.validate import check_fraction

__all__ = ["Appearance", "appearance", "levels_by_step"]

QUANTITIES = ("norm ratio", "valley", "sinks")
# The sink rate that has to be there at the last step, or there is nothing whose appearance could be dated.
_MIN_SINK_RATE = 0.05


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
    kappa (``sink_compression``, clipped at -1), the largest sink rate of any layer. Norm and valley are there
    at the last step where kappa is at least 0.1. Each appears at the first step from which on its level
    stays at ``share`` or more of what it is at the last step. The interval resamples prompts; the
    resolution is that of the checkpoints.

    Args:
        run: from ``profile_training``, or any profile concatenated along ``"step"``.
        share: of the level at the last step, in (0, 1).

    Raises:
        InputError: for a profile without steps, or a share out of range.
    """
    if "step" not in run.data.dims or run.data.sizes["step"] < 2:
        raise InputError("appearance needs a profile with two or more steps: use profile_training")
    check_fraction("share", share, 0.5)
    steps, table = run.data.step.values, _per_prompt(run)
    names, n = list(QUANTITIES), len(QUANTITIES)
    pairs = list(combinations(range(n), 2))

    def statistic(drawn: Float[np.ndarray, "prompt quantity step depth"]) -> Float[np.ndarray, "number"]:
        """Where each appears, and the lag of each pair, as indices of checkpoints."""
        at = _appear(_levels(drawn), share)
        return np.array([*at, *(at[second] - at[first] for first, second in pairs)])

    levels, at = _levels(table)[:, -1], statistic(table)
    ends = bootstrap_interval(table, statistic, confidence=confidence, n_resamples=n_resamples, seed=seed)
    low, high = (np.where(np.isnan(at), np.nan, end) for end in ends)
    before = np.where(at[:n] >= 1, at[:n] - 1, np.nan)
    places = {"step": at[:n], "after": before, "low": low[:n], "high": high[:n]}
    columns = {"level": levels, **{name: _at(steps, indices) for name, indices in places.items()}}
    dates = pd.DataFrame(columns, index=pd.Index(names, name="quantity"))
    first, second = (dates.step.to_numpy()[list(places)] for places in zip(*pairs, strict=True))
    lags = pd.DataFrame([(names[i], names[j]) for i, j in pairs], columns=["first", "second"])
    lags = lags.assign(checkpoints=at[n:], low=low[n:], high=high[n:])
    lags["factor"] = second / np.where(first > 0, first, np.nan)
    within_one = np.fmax(-lags.low, lags.high) <= 1
    lags["together"] = within_one.astype(object).where(lags.checkpoints.notnull(), None)
    return Appearance(dates, lags)


def levels_by_step(run: Profile) -> pd.DataFrame:
    """What the means over prompts reach at each step, a row a step."""
    extremes = {
        "largest norm ratio": run["norm_ratio"].mean("prompt").max("depth"),
        "largest kappa": typical_compression(run.sink_compression()).mean("prompt").max("depth"),
        "lowest entropy": run["normalized_entropy"].mean("prompt").min("depth"),
        "largest sink rate": run.sink_rate().mean("prompt").max("layer"),
    }
    return pd.DataFrame({name: values.to_series() for name, values in extremes.items()}).rename_axis("step")


def _per_prompt(run: Profile) -> Float[np.ndarray, "prompt quantity step depth"]:
    """The three curves of every prompt; sink rates stand at the depth that their layer reads."""
    curves = (run["norm_ratio"], typical_compression(run.sink_compression()))
    ratio, kappa = (curve.transpose("prompt", "step", "depth").values for curve in curves)
    rate = np.full_like(ratio, np.nan)
    rate[..., : run.data.sizes["layer"]] = run.sink_rate().transpose("prompt", "step", "layer").values
    return np.stack([ratio, kappa, rate], axis=1)


def _levels(table: Float[np.ndarray, "prompt quantity step depth"]) -> Float[np.ndarray, "quantity step"]:
    """How far each has come at every step, of the mean curves."""
    return np.fmax.reduce(mean_of_prompts(table), axis=-1)


def _appear(levels: Float[np.ndarray, "quantity step"], share: float) -> Float[np.ndarray, "quantity"]:
    """Index of the step from which on the level stays at its share; NaN for what is not there at the end."""
    final = levels[:, -1]
    above = levels >= share * final[:, None]
    # From the end: for how many last steps it has held without a break.
    n_last = np.logical_and.accumulate(above[:, ::-1], axis=-1).sum(-1)
    at = levels.shape[-1] - n_last.astype(float)
    _, kappa, rate = final
    is_massive = kappa >= MIN_COMPRESSION
    return np.where([is_massive, is_massive, rate >= _MIN_SINK_RATE], at, np.nan)


def _at(steps: np.ndarray, indices: Float[np.ndarray, "number"]) -> Float[np.ndarray, "number"]:
    """The steps at these indices of checkpoints; NaN stays NaN."""
    exists = ~np.isnan(indices)
    return np.where(exists, steps[np.where(exists, indices, 0).round().astype(int)], np.nan)


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
    order = f"{second} later" if low > 0 else f"{second} earlier" if high < 0 else "order uncertain"
    order = "together" if together else order
    return f"{first} and {second}: {order}, {lag:+.0f} checkpoints [{low:+.0f}, {high:+.0f}]"
