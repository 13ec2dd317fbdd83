"""What a study may say of one arm and one outcome: by an interval, against controls of equal norm.

Everything here takes any number of sets of prompts at once, ``(prompt, *set)``, so that simulations ask the
very code that studies use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from mcr_lens.stats.bootstrap import bootstrap_ends, mean_of_prompts, resampled_means, sums_by_cluster

__all__ = ["ALPHA", "CANNOT", "SHARE", "Comparison", "Kind", "change", "holm", "removed_share"]

ALPHA = 0.05
# An arm ends what it removes more of than this.
SHARE = 0.5
# Normalized entropy that moves by less than this stays.
MIN_MOVE = 0.05
CANNOT = "cannot be said"
Kind = Literal["share", "cost", "move"]
_WORDS: dict[Kind, tuple[str, str]] = {
    "share": ("ends it", "keeps it"),
    "cost": ("costs loss", "costs none"),
    "move": ("moves it", "leaves it"),
}


@dataclass(frozen=True)
class Comparison:
    """An arm's effect and how it varies over resampled prompts.

    Attributes:
        kind: a removed share (held against 0.5), a cost (against 0) or a move (either way, against 0).
        value: share that is removed, or change, ``(*set)``.
        beyond: the same minus that of each control, ``(control, *set)``.
        own, specific: both, resampled: ``(resample, ...)``.
        n_units: prompts, or clusters of them, that have all of the values.
    """

    kind: Kind
    value: Float[np.ndarray, "*set"]
    beyond: Float[np.ndarray, "control *set"]
    own: Float[np.ndarray, "resample *set"]
    specific: Float[np.ndarray, "resample control *set"]
    n_units: int

    def ends(self, confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """The interval of ``value``."""
        return bootstrap_ends(self.own, self.n_units, confidence)

    def beyond_ends(self, confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """The intervals of ``beyond``."""
        return bootstrap_ends(self.specific, self.n_units, confidence)

    def testable(self, confidence: float) -> bool:
        """Whether so few units can show anything: under symmetry the smallest p is ``2^(1 - n_units)``."""
        return self.n_units > 1 and 2.0 ** (1 - self.n_units) <= 1 - confidence + 1e-12

    def verdicts(self, confidence: float) -> np.ndarray:
        """A verdict for each set: ends it; the same, not specifically; keeps it; or cannot be said.

        It *ends* it when the low end of its own share is above 0.5 and the low end of its difference to every
        control is above 0; *not specifically* when only the first holds; it *keeps* it when the high end is
        below 0.5. A cost has a low end above 0, and none when the high end is below 0. A move has both ends
        on one side of 0; it is none when both lie within 0.05 of 0. Without a control nothing ends.
        """
        does, does_not = _WORDS[self.kind]
        low, high = (np.asarray(end) for end in self.ends(confidence))
        beyond_low, beyond_high = self.beyond_ends(confidence)
        own = low > (SHARE if self.kind == "share" else 0)
        specific = beyond_low > 0
        if self.kind == "move":
            own, specific = own | (high < 0), np.where(self.value > 0, specific, beyond_high < 0)
            none = (low > -MIN_MOVE) & (high < MIN_MOVE)
            own &= ~none
        else:
            none = high < (SHARE if self.kind == "share" else 0)
        answers = np.full(own.shape, CANNOT, dtype=object)
        if self.testable(confidence):
            if len(self.beyond):
                answers[own] = f"{does}, not specifically"
                answers[own & specific.all(0)] = does
            answers[none] = does_not
        return answers


def removed_share(
    removed: Float[np.ndarray, "prompt *set"],
    whole: Float[np.ndarray, "prompt *set"],
    controls: Sequence[Float[np.ndarray, "prompt *set"]],
    **resampling: object,
) -> Comparison:
    """The share of an outcome that is gone, a ratio of means over prompts, resampled with its prompts.

    Args:
        removed: baseline - arm.
        whole: baseline - what it is where the sink plays no role.
        controls: baseline - control, for each of them.
        resampling: ``n_resamples``, ``seed``, ``cluster`` (numbers).
    """
    return _comparison("share", removed, whole, controls, **resampling)  # type: ignore[arg-type]


def change(
    kind: Literal["cost", "move"],
    difference: Float[np.ndarray, "prompt *set"],
    controls: Sequence[Float[np.ndarray, "prompt *set"]],
    **resampling: object,
) -> Comparison:
    """A mean change arm - baseline, with no share: what its whole would be is not known."""
    whole = np.ones_like(difference)
    return _comparison(kind, difference, whole, controls, **resampling)  # type: ignore[arg-type]


def holm(rows: Sequence[Comparison], alpha: float = ALPHA) -> list[tuple[str, float]]:
    """The verdict on each row, and the confidence of the intervals that it rests on.

    Holm's procedure by intervals: with m rows undecided all stand at confidence ``1 - alpha / m``; what can
    be said is taken out, and the others are asked again at the next m, until nothing more can be said. So
    with probability ``1 - alpha`` no row is decided falsely, however the rows depend on each other.
    """
    answers = [(CANNOT, 1 - alpha / max(1, len(rows)))] * len(rows)
    undecided = list(range(len(rows)))
    while undecided:
        confidence = 1 - alpha / len(undecided)
        for i in undecided:
            answers[i] = (str(rows[i].verdicts(confidence)), confidence)
        left = [i for i in undecided if answers[i][0] == CANNOT]
        if len(left) == len(undecided):
            break
        undecided = left
    return answers


def _comparison(
    kind: Kind,
    removed: np.ndarray,
    whole: np.ndarray,
    controls: Sequence[np.ndarray],
    n_resamples: int = 9999,
    seed: int = 0,
    cluster: Int[np.ndarray, "prompt"] | None = None,
) -> Comparison:
    table = np.stack([removed, whole, *controls], axis=1).astype(np.float64)
    complete = ~np.isnan(table.reshape(len(table), -1)).any(1)
    table, units = table[complete], None if cluster is None else cluster[complete]
    n_units = len(sums_by_cluster(np.ones(len(table)), units))
    means = mean_of_prompts(table)
    resampled = resampled_means(table, 0.95, n_resamples, seed, units) if n_units else means[None]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares, again = (
            np.delete(every, 1, axis=axis) / np.take(every, [1], axis)
            for every, axis in ((means, 0), (resampled, 1))
        )
    value, own = shares[0], again[:, 0]
    return Comparison(kind, value, value - shares[1:], own, own[:, None] - again[:, 1:], n_units)
