"""How far the phases and the layers move when other prompts are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from mcr_lens.phases.compression import compression_span
from mcr_lens.phases.curves import by_prompt
from mcr_lens.phases.emergence import WRITES, named_layers
from mcr_lens.phases.resampling import Place, matched_places, place_interval, resampled_means, with_values

__all__ = ["PhaseIntervals", "phase_intervals"]


@dataclass(frozen=True)
class PhaseIntervals:
    """Bootstrap over prompts: whole prompts drawn anew, curves averaged, everything found again.

    The intervals are expanded percentile intervals (``bootstrap_interval``) of whole numbers, ends
    included, over the resamples that have the boundary or stage at all. They speak of the mean over all
    prompts like these. One prompt has no interval: nothing is known of the spread.

    Attributes:
        share: of the resamples that have a compression phase; NaN with one prompt.
        begins, ends: first and last depth of the compression phase; ``None`` where none was found.
            Mixing ends one depth before the one, refinement begins one depth after the other.
        emergence, dissipation: one place a stage that was found, in order; ``None`` without writes.
        emergence_named, dissipation_named: every layer that a resample names, and in which share. Those
            named in at least (1 - confidence) / 2 of them are printed: together they are the layers that
            the data do not rule out. What only prompts unlike all of these would name is not among them.
    """

    confidence: float
    n_prompts: int
    n_resamples: int
    seed: int
    n_depths: int
    share: float
    begins: Place | None
    ends: Place | None
    emergence: tuple[Place, ...] | None
    dissipation: tuple[Place, ...] | None
    emergence_named: dict[int, float]
    dissipation_named: dict[int, float]

    def table(self) -> pd.DataFrame:
        """A row a boundary (depths) and a stage (layers): ``place``, ``low``, ``high``, shares.

        A boundary that does not exist, such as the end of mixing when depth 0 is compressed already, is
        ``<NA>``, as an end of an interval too. A layer that the mean does not name, but at least
        (1 - confidence) / 2 of the resamples do, is a "possible" emergence or dissipation layer, with the
        share of resamples that name it and no interval.
        """
        also_written, also_removed = self._possible()
        rows = [
            ("mixing ends", self.begins, -1),
            ("compression begins", self.begins, 0),
            ("compression ends", self.ends, 0),
            ("refinement begins", self.ends, 1),
            *(("emergence layer", stage, 0) for stage in self.emergence or ()),
            *(("possible emergence layer", layer, 0) for layer in also_written),
            *(("dissipation layer", stage, 0) for stage in self.dissipation or ()),
            *(("possible dissipation layer", layer, 0) for layer in also_removed),
        ]
        table = pd.DataFrame(
            [
                [name, *(self._moved(end, by) for end in (at.place, at.low, at.high)), at.named, at.found]
                for name, at, by in rows
                if at is not None
            ],
            columns=["boundary", "place", "low", "high", "named", "found"],
        )
        return table.astype(dict.fromkeys(["place", "low", "high"], "Int64")).set_index("boundary")

    def _possible(self) -> tuple[list[Place], list[Place]]:
        """Emergence and dissipation layers that were not found, but which the data do not rule out."""
        rare = (1 - self.confidence) / 2
        emergence, dissipation = (
            [
                Place(layer, named=share)
                for layer, share in named.items()
                if share >= rare and layer not in {stage.place for stage in stages or ()}
            ]
            for stages, named in (
                (self.emergence, self.emergence_named),
                (self.dissipation, self.dissipation_named),
            )
        )
        return emergence, dissipation

    def _moved(self, end: int | None, by: int) -> int | None:
        """The neighbouring depth, if the model has it."""
        return None if end is None or not 0 <= end + by < self.n_depths else end + by

    def __str__(self) -> str:
        if self.n_prompts < 2:
            return f"no intervals: {self.n_prompts} prompt{'' if self.n_prompts else 's'}, at least 2 needed"
        lines = [
            f"{self.confidence:.0%} intervals over {self.n_prompts} prompts ({self.n_resamples} resamples, "
            f"{_percent(self.share)} with a compression phase):"
        ]
        if self.begins and self.ends:
            lines.append(f"  compression begins at depth {self.begins} and ends at depth {self.ends}")
        if self.emergence is not None and self.dissipation is not None:
            also_written, also_removed = self._possible()
            written = _stages("written in", self.emergence, also_written)
            removed = _stages("taken back in", self.dissipation, also_removed)
            lines.append(f"  sink token's norm {written}; {removed}")
        return "\n".join(lines)


def phase_intervals(
    data: xr.Dataset,
    span: tuple[int, int] | None,
    written: Sequence[int] | None,
    removed: Sequence[int] | None,
    thresholds: tuple[float, float, float],
    resampling: tuple[float, int, int],
) -> PhaseIntervals:
    """Intervals of what was found: the compression phase and the layers.

    Args:
        data: the dataset it was found in.
        span: first and last depth of the compression phase, if any.
        written, removed: emergence and dissipation layers; ``None`` without writes.
        thresholds: norm ratio, entropy drop and share of the peak norm.
        resampling: confidence, number of resamples and seed.
    """
    min_norm_ratio, min_entropy_drop, min_share = thresholds
    confidence, n_resamples, seed = resampling
    names = ["normalized_entropy", *(WRITES if written is not None else WRITES[:1])]
    curves = [by_prompt(data, name) for name in names]
    stacked = with_values(np.concatenate(curves, axis=1))
    n = len(stacked)
    means = resampled_means(stacked, *resampling) if n > 1 else np.full((0, stacked.shape[1]), np.nan)
    cuts = np.cumsum([curve.shape[1] for curve in curves])[:-1]
    entropy, ratio, *writes = np.split(means, cuts, axis=1)

    def places(found: Sequence[int], matched: Float[np.ndarray, "resample found"]) -> tuple[Place, ...]:
        if n < 2:
            return tuple(Place(place) for place in found)
        return tuple(place_interval(at, matched[:, i], n, confidence) for i, at in enumerate(found))

    ends = np.stack(compression_span(ratio, entropy, min_norm_ratio, min_entropy_drop), axis=1)
    begins_ends = places(span, ends) if span else (None, None)
    stages: list[tuple[Place, ...] | None] = [None, None]
    named: list[dict[int, float]] = [{}, {}]
    if written is not None and removed is not None:
        layers = named_layers([ratio, *writes], min_share, min_norm_ratio)
        for i, (found, again) in enumerate(zip((written, removed), layers, strict=True)):
            stages[i] = places(found, matched_places(again, found))
            if n > 1:
                share = again.mean(0)
                named[i] = {int(layer): float(share[layer]) for layer in np.flatnonzero(share)}
    return PhaseIntervals(
        confidence=confidence,
        n_prompts=n,
        n_resamples=n_resamples,
        seed=seed,
        n_depths=ratio.shape[1],
        share=float((~np.isnan(ends[:, 0])).mean()) if n > 1 else float("nan"),
        begins=begins_ends[0],
        ends=begins_ends[1],
        emergence=stages[0],
        dissipation=stages[1],
        emergence_named=named[0],
        dissipation_named=named[1],
    )


def _stages(how: str, stages: tuple[Place, ...], possible: list[Place]) -> str:
    """The stages that were found, and the layers that many resamples name besides."""
    listed = [f"{stage} ({_percent(stage.named)})" for stage in stages]
    others = [f"{at} ({_percent(at.named)})" for at in possible]
    several = f"{len(stages)} stages, " if len(stages) > 1 else ""
    text = f"{several}layer{'s' * (len(stages) > 1)} {', '.join(listed)}" if stages else "no single layer"
    return f"{how} {text}" + (f", in some resamples also {', '.join(others)}" if others else "")


def _percent(share: float) -> str:
    """A share in per cent that says 0% or 100% only when it is."""
    if 0 < share < 0.01 or 0.99 < share < 1:
        return "under 1%" if share < 0.5 else "over 99%"
    return f"{share:.0%}"
