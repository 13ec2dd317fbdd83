"""Mix, Compress, Refine: where the sink token becomes massive, where it is removed, what lies between."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mcr_lens.phases.boundaries import (
    MIN_ENTROPY_DROP,
    MIN_NORM_RATIO,
    MIN_SHARE,
    Thresholds,
    boundaries,
    boundary_curves,
    entropy_fall,
    other_valleys,
)
from mcr_lens.phases.curves import ProfileLike, dataset_of
from mcr_lens.phases.emergence import Stage, stages
from mcr_lens.phases.intervals import PhaseIntervals, phase_intervals
from mcr_lens.stats.bootstrap import mean_of_prompts

__all__ = ["Phases", "find_phases"]


@dataclass(frozen=True)
class Phases:
    """Depth intervals, both ends included; ``None`` for a phase the model does not have.

    Attributes:
        peak_depth: depth of the largest mean norm ratio.
        peak_norm_ratio: that ratio.
        entropy_drop: largest fall of normalized entropy below its highest value before.
        other_valleys: further runs of depths, before or after the compression phase, that are massive and
            compressed too, where the norm comes and goes more than once.
        emergence, dissipation: the layers that write the sink token's norm and take it back, in order:
            several when it is written in several stages; ``None`` when the profile has no writes.
        intervals: how all this moves when other prompts are drawn; ``None`` with ``confidence=None``.
    """

    mix: tuple[int, int] | None
    compress: tuple[int, int] | None
    refine: tuple[int, int] | None
    peak_depth: int
    peak_norm_ratio: float
    entropy_drop: float
    min_norm_ratio: float
    min_entropy_drop: float
    min_share: float = MIN_SHARE
    other_valleys: tuple[tuple[int, int], ...] = ()
    emergence: tuple[Stage, ...] | None = None
    dissipation: tuple[Stage, ...] | None = None
    intervals: PhaseIntervals | None = None

    @property
    def headline(self) -> str:
        """The phases in one line, without intervals."""
        if self.compress is None:
            if math.isnan(self.peak_norm_ratio) or math.isnan(self.entropy_drop):
                return "no compression phase: norm ratio and entropy are not known"
            return (
                f"no compression phase: the norm ratio peaks at {self.peak_norm_ratio:.1f} (depth "
                f"{self.peak_depth}) and normalized entropy falls by {self.entropy_drop:.2f}; both must "
                f"reach {self.min_norm_ratio:g} and {self.min_entropy_drop:g} at one depth"
            )
        spans = {"Mix": self.mix, "Compress": self.compress, "Refine": self.refine}
        text = ", ".join(
            f"{name} {_depths(span)}" if span else f"no {name} phase" for name, span in spans.items()
        )
        others = " and ".join(map(_depths, self.other_valleys))
        return f"{text}; also compressed: {others}" if others else text

    def table(self) -> pd.DataFrame:
        """A row a boundary and a stage, in order of depth: ``place``, ``low``, ``high`` and shares.

        ``place`` is a depth for boundaries and a layer for stages. ``named`` is the share of resamples
        in which it is exactly there, ``found`` that in which it exists. Empty without intervals.
        """
        return pd.DataFrame() if self.intervals is None else self.intervals.table()

    def __str__(self) -> str:
        return self.headline if self.intervals is None else f"{self.headline}\n{self.intervals}"


def find_phases(
    profile: ProfileLike,
    min_norm_ratio: float = MIN_NORM_RATIO,
    min_entropy_drop: float = MIN_ENTROPY_DROP,
    min_share: float = MIN_SHARE,
    *,
    confidence: float | None = 0.95,
    n_resamples: int = 999,
    seed: int = 0,
) -> Phases:
    """The three phases by plain thresholds on the means over prompts, with intervals.

    The fall of normalized entropy at a depth is taken from the highest value at or before it. There is
    a compression phase when the fall reaches ``min_entropy_drop`` at a depth whose norm ratio is at
    least ``min_norm_ratio``. It is the run of depths around the deepest such fall that keep at least
    half of it. Mixing is what lies before, refinement what lies after. Where the norm comes and goes more
    than once, ``other_valleys`` holds what else is compressed.

    For the intervals whole prompts are drawn anew, the curves averaged and everything found again; see
    ``PhaseIntervals``. They are about the curve of the mean over all such prompts; for where most single
    prompts have the boundaries see ``constancy``.

    Args:
        min_norm_ratio: norm ratio from which the sink token counts as massive.
        min_entropy_drop: fall of normalized entropy from which on it counts as compressed.
        min_share: share of the peak norm from which a layer is an emergence or dissipation layer.
        confidence: coverage aimed at by the intervals; ``None`` for none.
        n_resamples, seed: of the resampling.

    Raises:
        InputError: for several profiles at once, infinite values, or options out of range.

    Example:
        >>> import xarray as xr
        >>> curves = {"norm_ratio": [[1, 1, 200, 210, 3], [1, 1, 180, 220, 4]],
        ...           "normalized_entropy": [[0.9, 0.9, 0.2, 0.1, 0.8], [0.9, 0.8, 0.1, 0.1, 0.8]]}
        >>> data = xr.Dataset({name: (("prompt", "depth"), values) for name, values in curves.items()})
        >>> print(find_phases(data))
        Mix depths 0-1, Compress depths 2-3, Refine depth 4
        95% intervals over 2 prompts (999 resamples, 100% with a compression phase):
          compression begins at depth 2 [2, 2] and ends at depth 3 [3, 3]
    """
    data = dataset_of(profile)
    curves = boundary_curves(data)
    means = [mean_of_prompts(curve) for curve in curves]
    entropy, ratio = means[:2]
    thresholds = Thresholds(min_norm_ratio, min_entropy_drop, min_share)
    of_mean = boundaries(means, thresholds)
    span = of_mean.span
    peak = int(np.where(np.isnan(ratio), -np.inf, ratio).argmax())
    # A model that was stacked with deeper ones has no value at depths that it does not have.
    last = int(np.flatnonzero(~(np.isnan(ratio) & np.isnan(entropy))).max(initial=0))
    emergence = dissipation = intervals = None
    if of_mean.layers is not None:
        emergence, dissipation = map(tuple, stages(data, min_share, min_norm_ratio))
    if confidence is not None:
        intervals = phase_intervals(curves, of_mean, thresholds, confidence, n_resamples, seed)
    return Phases(
        mix=(0, span[0] - 1) if span and span[0] > 0 else None,
        compress=span,
        refine=(span[1] + 1, last) if span and span[1] < last else None,
        peak_depth=peak,
        peak_norm_ratio=float(ratio[peak]),
        entropy_drop=float(np.fmax.reduce(entropy_fall(entropy))),
        **thresholds._asdict(),
        other_valleys=tuple(other_valleys(ratio, entropy, span, thresholds)) if span else (),
        emergence=emergence,
        dissipation=dissipation,
        intervals=intervals,
    )


def _depths(span: tuple[int, int]) -> str:
    first, last = span
    return f"depth {first}" if first == last else f"depths {first}-{last}"
