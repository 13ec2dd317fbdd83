"""Mix, Compress, Refine: which depths the sink compresses, and what lies before and after."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mcr_lens.phases.compression import MIN_COMPRESSION, outweighing_token
from mcr_lens.phases.curves import ProfileLike, dataset_of
from mcr_lens.phases.emergence import (
    MIN_SHARE,
    Stage,
    Thresholds,
    boundaries,
    boundary_curves,
    means_and_low,
    stages_of,
)
from mcr_lens.phases.intervals import PhaseIntervals, phase_intervals

__all__ = ["Phases", "find_phases", "phase_thresholds"]


@dataclass(frozen=True)
class Phases:
    """Depth intervals, both ends included; ``None`` for a phase the model does not have.

    Attributes:
        compression: kappa at each depth, the mean over prompts of ``sink_compression`` clipped at -1.
        peak_depth: depth of the largest kappa.
        other_massive_token: position of another token that outweighs the rest, ``None`` where there is none.
            Then no answer can be had with the sink position of this profile, where it finds no phase.
        other_valleys: further runs of depths, before or after the compression phase, that are compressed as
            much, where the norm comes and goes more than once.
        emergence, dissipation: the layers that write the sink token's norm and take it back, in order:
            several when it is written in several stages; ``None`` when the profile has no writes.
        intervals: how all this moves when other prompts are drawn; ``None`` with ``confidence=None``.
    """

    mix: tuple[int, int] | None
    compress: tuple[int, int] | None
    refine: tuple[int, int] | None
    compression: tuple[float, ...]
    peak_depth: int
    min_compression: float = MIN_COMPRESSION
    min_share: float = MIN_SHARE
    other_massive_token: int | None = None
    other_valleys: tuple[tuple[int, int], ...] = ()
    emergence: tuple[Stage, ...] | None = None
    dissipation: tuple[Stage, ...] | None = None
    intervals: PhaseIntervals | None = None

    @property
    def peak_compression(self) -> float:
        """The largest kappa."""
        return self.compression[self.peak_depth]

    @property
    def headline(self) -> str:
        """The phases in one line."""
        peak = f"kappa {self._kappa(self.peak_depth)} at depth {self.peak_depth}"
        if self.compress is None:
            if self.other_massive_token is not None:
                return (
                    f"phases cannot be said: the token at position {self.other_massive_token} is massive, too"
                )
            if np.isnan(self.peak_compression):
                return "phases cannot be said: kappa is not known at any depth"
            why = "is not reached" if self.peak_compression < self.min_compression else "may be chance"
            return f"no compression phase: {peak}; {self.min_compression:g} {why}"
        named = {"Mix": self.mix, "Compress": self.compress, "Refine": self.refine}
        parts = [f"{name} {_depths(span)}" if span else f"no {name} phase" for name, span in named.items()]
        parts[1] += f" ({peak})"
        others = " and ".join(map(_depths, self.other_valleys))
        return ", ".join(parts) + (f"; also compressed: {others}" if others else "")

    def table(self) -> pd.DataFrame:
        """A row a boundary and a stage, in order of depth: ``place``, ``low``, ``high`` and shares.

        ``place`` is a depth for boundaries and a layer for stages. ``named`` is the share of resamples
        in which it is exactly there, ``found`` that in which it exists. Empty without intervals.
        """
        return pd.DataFrame() if self.intervals is None else self.intervals.table()

    def _kappa(self, depth: int) -> str:
        text = f"{self.compression[depth]:.2f}"
        if self.intervals is None or not self.intervals.compression:
            return text
        low, high = self.intervals.compression[depth]
        return f"{text} [{low:.2f}, {high:.2f}]"

    def __str__(self) -> str:
        return self.headline if self.intervals is None else f"{self.headline}\n{self.intervals}"


def find_phases(
    profile: ProfileLike,
    min_compression: float = MIN_COMPRESSION,
    min_share: float = MIN_SHARE,
    *,
    confidence: float | None = 0.95,
    n_resamples: int = 999,
    seed: int = 0,
) -> Phases:
    """The three phases by the share of the other tokens' entropy that the sink destroys, with intervals.

    Compress is the run of depths around the largest kappa (``sink_compression``, mean over prompts, clipped
    at -1) with a kappa of at least ``min_compression`` and of half the largest, whose lower 95 % end over
    prompts is above 0 (one prompt has no such end). The earliest depth within 0.02 of the largest counts.
    Mix is what lies before, Refine what lies after. There is no reference depth and no threshold of the norm.
    Where the norm comes and goes more than once, ``other_valleys`` holds what else is compressed as much.

    For the intervals whole prompts are drawn anew, the curves averaged and everything found again; see
    ``PhaseIntervals``. They are about the curve of the mean over all such prompts; for where most single
    prompts have the boundaries see ``constancy``. kappa depends on the length of the prompts: see ``reach``.

    Args:
        profile: a profile or its dataset, of the raw estimator.
        min_compression: kappa from which on a depth counts as compressed.
        min_share: see ``emergence_stages``.
        confidence: coverage aimed at by the intervals; ``None`` for none.
        n_resamples: number of resamples.
        seed: of the resampling.

    Raises:
        InputError: for several profiles at once, another estimator, infinite values, or options out of range.

    Example:
        >>> import xarray as xr
        >>> curves = {"matrix_entropy": [[1.9, 1.9, 0.4, 0.2, 1.8], [1.9, 1.8, 0.2, 0.2, 1.8]],
        ...           "entropy_without_sink": [[1.9, 1.9, 1.8, 1.8, 1.8], [1.9, 1.8, 1.8, 1.8, 1.8]]}
        >>> data = xr.Dataset({name: (("prompt", "depth"), values) for name, values in curves.items()})
        >>> print(find_phases(data))
        Mix depths 0-1, Compress depths 2-3 (kappa 0.89 [0.89, 0.89] at depth 3), Refine depth 4
        95% intervals over 2 prompts (999 resamples, 100% with a compression phase):
          compression begins at depth 2 [2, 2] and ends at depth 3 [3, 3]
    """
    data = dataset_of(profile)
    curves = boundary_curves(data)
    means, low = means_and_low(curves, n_resamples, seed)
    kappa = means[0]
    thresholds = Thresholds(min_compression, min_share)
    of_mean = boundaries(means, thresholds, low)
    span = of_mean.span
    # A model that was stacked with deeper ones has no value at depths that it does not have.
    last = int(np.flatnonzero(~np.isnan(kappa)).max(initial=0))
    intervals = None
    if confidence is not None:
        intervals = phase_intervals(curves, of_mean, thresholds, confidence, n_resamples, seed)
    emergence, dissipation = (None, None) if of_mean.emergence is None else stages_of(data, of_mean)
    return Phases(
        mix=(0, span[0] - 1) if span and span[0] > 0 else None,
        compress=span,
        refine=(span[1] + 1, last) if span and span[1] < last else None,
        compression=tuple(kappa.tolist()),
        peak_depth=int(np.where(np.isnan(kappa), -np.inf, kappa).argmax()),
        **thresholds._asdict(),
        other_massive_token=outweighing_token(data),
        other_valleys=_runs(of_mean.compressed, span),
        emergence=None if emergence is None else tuple(emergence),
        dissipation=None if dissipation is None else tuple(dissipation),
        intervals=intervals,
    )


def phase_thresholds(
    profile: ProfileLike, thresholds: np.ndarray | None = None
) -> dict[float, tuple[int, int] | None]:
    """The compression phase by ``min_compression``, .02 to .5: how far the answer is from changing."""
    data = dataset_of(profile)
    means, low = means_and_low(boundary_curves(data))
    each = np.arange(0.02, 0.501, 0.02) if thresholds is None else thresholds
    return {round(float(at), 4): boundaries(means, Thresholds(float(at)), low).span for at in each}


def _runs(compressed: np.ndarray, span: tuple[int, int] | None) -> tuple[tuple[int, int], ...]:
    """Runs of compressed depths other than the phase."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], compressed, [False]]).astype(int)))
    runs = [(int(begin), int(end) - 1) for begin, end in edges.reshape(-1, 2)]
    return tuple(run for run in runs if run != span)


def _depths(span: tuple[int, int]) -> str:
    first, last = span
    return f"depth {first}" if first == last else f"depths {first}-{last}"
