"""Where several curves change along depth: an exact segmentation, without thresholds of its own."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from mcr_lens.phases.curves import CURVES, ProfileLike, dataset_of, is_raw, joint_curves
from mcr_lens.phases.intervals import Place, matched_places, place_intervals
from mcr_lens.phases.phases import find_phases
from mcr_lens.stats.bootstrap import mean_of_prompts, prompts_with_values, resampled_means
from mcr_lens.validate import check_positive

__all__ = ["PENALTY", "ChangePoints", "change_points", "segment"]

PENALTY = 0.1
# What counts as much as the whole range of a score: the norm ratio times 100.
_UNIT = {"log_norm_ratio": np.log(100.0)}
# Costs closer than this are equal but for rounding.
_TIE = 1e-12


@dataclass(frozen=True, eq=False)
class ChangePoints:
    """Where the joint curves change, and what they are in between.

    Attributes:
        points: the depths at which a new segment begins, in order, with intervals; empty for a profile
            that is flat.
        segments: a row a segment, ``first`` and ``last`` depth and the mean of each curve over it.
        curves: the curves that were used.
        penalty: what a change point had to save.
        same_number: share of the resamples with as many change points; NaN without intervals.
        boundaries: where ``find_phases`` lets a phase begin, by name; the rest are stages within one.
    """

    points: tuple[Place, ...]
    segments: pd.DataFrame
    curves: tuple[str, ...]
    penalty: float
    confidence: float | None
    n_prompts: int
    n_resamples: int
    seed: int
    same_number: float
    boundaries: dict[str, int]

    @property
    def depths(self) -> list[int]:
        """The change points without their intervals."""
        return [point.place for point in self.points]

    def table(self) -> pd.DataFrame:
        """A row a change point: its interval, shares of the resamples, and the phase that begins there."""
        begins = {depth: name for name, depth in self.boundaries.items()}
        table = pd.DataFrame(
            [(*astuple(point), begins.get(point.place, "")) for point in self.points],
            columns=["depth", "low", "high", "named", "found", "begins"],
        )
        return table.astype(dict.fromkeys(["depth", "low", "high"], "Int64")).set_index("depth")

    def __str__(self) -> str:
        listed = f": depth {', '.join(map(str, self.points))}" if self.points else ""
        noun = "change point" if len(self.points) < 2 else "change points"
        head = f"{len(self.points) or 'no'} {noun} (penalty {self.penalty:g}){listed}"
        if self.confidence is not None and self.n_prompts < 2:
            head += "\nno intervals: at least 2 prompts needed"
        elif self.confidence is not None:
            head += (
                f"\n{self.confidence:.0%} intervals over {self.n_prompts} prompts; "
                f"{self.same_number:.0%} of {self.n_resamples} resamples have as many"
            )
        return f"{head}\n{self.segments.round(2).to_string(index=False)}"


def change_points(
    profile: ProfileLike,
    *,
    penalty: float = PENALTY,
    curves: Sequence[str] = CURVES,
    confidence: float | None = 0.95,
    n_resamples: int = 999,
    seed: int = 0,
) -> ChangePoints:
    """The depths at which norm ratio, entropy, sink rate, mixing and identity change together.

    The mean curves over prompts (the norm ratio as a logarithm) are cut into segments of depths so that::

        sum over segments and curves of (curve - its mean in the segment)^2  +  penalty * change points

    is smallest, over all segmentations (dynamic programming, so it is exact). Scores count in their own
    unit, 0 to 1; the norm ratio counts 1 for a factor of 100. The penalty chooses the number of segments: a
    change between long segments needs ``sum over curves of change^2 > penalty * (1/n + 1/m)`` with ``n`` and
    ``m`` their numbers of depths; a single depth that stands out needs about 0.45 in one curve at the
    default. A flat profile has no change point, however little noise there is; a long even slope is cut into
    a few steps, for which the intervals are wide.

    **Against the phases.** ``find_phases`` defines the phases, by thresholds of kappa. Change
    points do without them and see attention too. A boundary that is also a change point (``table()`` names
    it) is an abrupt one; a boundary that is none lies on a slope; other change points are stages within a
    phase, or heads that change where neither norm nor entropy does.

    What belongs to a layer stands at the depth that the layer reads: a norm written in layer ``l`` and
    sinks in layer ``l + 1`` both change at depth ``l + 1``. What is NaN counts nothing.

    Args:
        penalty: what a change point must save; larger for fewer.
        curves: some of ``mcr_lens.phases.curves.CURVES``; those that the profile lacks are left out.
        confidence: coverage aimed at by the bootstrap intervals over prompts; ``None`` for none.
        n_resamples, seed: of the resampling.

    Raises:
        InputError: for a penalty that is not above 0, unknown curves, several profiles at once, or options
            of the resampling out of range.

    Example:
        >>> import xarray as xr
        >>> curves = {"norm_ratio": [[1, 1, 200, 210, 3], [1, 1, 180, 220, 4]],
        ...           "normalized_entropy": [[0.9, 0.9, 0.2, 0.1, 0.8], [0.9, 0.8, 0.1, 0.1, 0.8]],
        ...           "matrix_entropy": [[1.9, 1.9, 0.4, 0.2, 1.8], [1.9, 1.8, 0.2, 0.2, 1.8]],
        ...           "entropy_without_sink": [[1.9, 1.9, 1.8, 1.8, 1.8], [1.9, 1.8, 1.8, 1.8, 1.8]]}
        >>> data = xr.Dataset({name: (("prompt", "depth"), values) for name, values in curves.items()})
        >>> print(change_points(data, confidence=None))
        2 change points (penalty 0.1): depth 2, 4
         first  last  log_norm_ratio  normalized_entropy
             0     1            0.00                0.88
             2     3            5.31                0.12
             4     4            1.24                0.80
        >>> change_points(data).table()["begins"].tolist()
        ['compression', 'refinement']
    """
    check_positive("penalty", penalty, PENALTY)
    data = dataset_of(profile)
    names, by_prompt = joint_curves(data, curves)
    table = prompts_with_values(by_prompt)
    units = np.array([_UNIT.get(name, 1.0) for name in names])[:, None]
    n, mean = len(table), mean_of_prompts(by_prompt)
    depths = np.flatnonzero(segment(mean / units, penalty)).tolist()
    points, same = tuple(map(Place, depths)), float("nan")
    if confidence is not None and n > 1:
        again = segment(resampled_means(table, confidence, n_resamples, seed) / units, penalty)
        points = place_intervals(depths, matched_places(again, depths), n, confidence)
        same = float((again.sum(1) == len(depths)).mean())
    spans: dict[str, tuple[int, int] | None] = {}
    if is_raw(data) and {"matrix_entropy", "entropy_without_sink"} <= set(data):
        phases = find_phases(data, confidence=None)
        spans = {"compression": phases.compress, "refinement": phases.refine}
    return ChangePoints(
        points=points,
        segments=_segments(mean, depths, names),
        curves=names,
        penalty=penalty,
        confidence=confidence,
        n_prompts=n,
        n_resamples=n_resamples,
        seed=seed,
        same_number=same,
        boundaries={name: span[0] for name, span in spans.items() if span},
    )


def segment(
    curves: Float[np.ndarray, "*set curve depth"], penalty: float = PENALTY
) -> Bool[np.ndarray, "*set depth"]:
    """The depths at which a new segment begins, for one set of curves or many; never depth 0.

    Exact: ``best[j] = min over i < j of best[i] + cost(i, j) + penalty`` with ``cost(i, j)`` the squares
    about the mean of depths ``i .. j - 1``, summed over curves. NaN is left out. Of equally good
    segmentations the one with the longest last segment is taken. (``ruptures`` finds the same, for one
    set of curves without NaN at a time.)
    """
    n_depths = curves.shape[-1]
    used = ~np.isnan(curves)
    # Counted from each curve's own mean: squares of small numbers lose nothing in the differences.
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.where(used, curves, 0.0).sum(-1, keepdims=True) / used.sum(-1, keepdims=True)
    values = np.where(used, curves - centre, 0.0)
    pads = [(0, 0)] * (curves.ndim - 1) + [(1, 0)]
    count, total, square = (np.pad(part.cumsum(-1), pads) for part in (1.0 * used, values, values**2))
    best = np.zeros((*curves.shape[:-2], n_depths + 1))
    start = np.zeros((*curves.shape[:-2], n_depths + 1), dtype=np.intp)
    for stop in range(1, n_depths + 1):
        number, summed, squared = (
            part[..., stop : stop + 1] - part[..., :stop] for part in (count, total, square)
        )
        cost = (squared - summed**2 / np.maximum(number, 1.0)).sum(-2)
        cost += best[..., :stop] + penalty * (np.arange(stop) > 0)
        start[..., stop] = (cost <= cost.min(-1, keepdims=True) + _TIE).argmax(-1)
        best[..., stop] = cost.min(-1)
    # Back from the end: which depth begins the last segment, which the one before it.
    begins = np.zeros(best.shape, dtype=bool)
    stop = np.full((*start.shape[:-1], 1), n_depths, dtype=np.intp)
    for _ in range(n_depths):
        stop = np.take_along_axis(start, stop, -1)
        np.put_along_axis(begins, stop, True, -1)
    return begins[..., :n_depths] & (np.arange(n_depths) > 0)


def _segments(
    mean: Float[np.ndarray, "curve depth"], depths: list[int], names: Sequence[str]
) -> pd.DataFrame:
    edges = [0, *depths, mean.shape[1]]
    rows = [[first, stop - 1, *mean_of_prompts(mean[:, first:stop].T)] for first, stop in pairwise(edges)]
    return pd.DataFrame(rows, columns=["first", "last", *names])
