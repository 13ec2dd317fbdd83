"""How far the phases and the layers move when other prompts are drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from mcr_lens.phases.emergence import Boundaries, Thresholds, boundaries
from mcr_lens.stats.bootstrap import bootstrap_ends, prompts_with_values, resampled_means

__all__ = ["PhaseIntervals", "Place", "matched_places", "phase_intervals", "place_intervals"]


@dataclass(frozen=True)
class Place:
    """A depth or a layer that was found, and where it is when other prompts are drawn.

    Attributes:
        place: depth or layer, found on the mean over all prompts.
        low, high: ends of the bootstrap interval, both included, over the resamples that have such a
            place; ``None`` without intervals (not asked for, or one prompt).
        named: share of the resamples in which it is exactly here.
        found: share of the resamples that have one at all (where several were found: one nearer to
            this than to any other of them).
    """

    place: int
    low: int | None = None
    high: int | None = None
    named: float = float("nan")
    found: float = float("nan")

    def __str__(self) -> str:
        return str(self.place) if self.low is None else f"{self.place} [{self.low}, {self.high}]"


@dataclass(frozen=True)
class PhaseIntervals:
    """Bootstrap over prompts: whole prompts drawn anew, curves averaged, everything found again.

    The intervals are expanded percentile intervals (``bootstrap_interval``) of whole numbers, ends
    included, over the resamples that have the boundary or stage at all. They speak of the mean over all
    prompts like these. One prompt has no interval: nothing is known of the spread.

    Attributes:
        share: of the resamples that have a compression phase; NaN with one prompt.
        compression: ``(low, high)`` of the mean kappa at each depth; empty with one prompt.
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
    compression: tuple[tuple[float, float], ...]
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
        rows = [
            ("mixing ends", self.begins, -1),
            ("compression begins", self.begins, 0),
            ("compression ends", self.ends, 0),
            ("refinement begins", self.ends, 1),
        ]
        for noun, stages, possible in self._stages():
            rows += [(f"{noun} layer", place, 0) for place in stages]
            rows += [(f"possible {noun} layer", place, 0) for place in possible]
        table = pd.DataFrame(
            [
                [name, *(self._moved(end, by) for end in (at.place, at.low, at.high)), at.named, at.found]
                for name, at, by in rows
                if at is not None
            ],
            columns=["boundary", "place", "low", "high", "named", "found"],
        )
        return table.astype(dict.fromkeys(["place", "low", "high"], "Int64")).set_index("boundary")

    def _stages(self) -> Iterator[tuple[str, tuple[Place, ...], list[Place]]]:
        """Layers that were found, and those that were not, but which the data do not rule out."""
        for noun in ("emergence", "dissipation"):
            stages, shares = getattr(self, noun) or (), getattr(self, f"{noun}_named")
            others = sorted(set(shares) - {stage.place for stage in stages})
            likely = [layer for layer in others if shares[layer] >= (1 - self.confidence) / 2]
            yield noun, stages, [Place(layer, named=shares[layer]) for layer in likely]

    def _moved(self, end: int | None, by: int) -> int | None:
        """The neighbouring depth, if the model has it."""
        return None if end is None or not 0 <= end + by < self.n_depths else end + by

    def __str__(self) -> str:
        if self.n_prompts < 2:
            return "no intervals: at least 2 prompts needed"
        lines = [
            f"{self.confidence:.0%} intervals over {self.n_prompts} prompts ({self.n_resamples} resamples, "
            f"{self.share:.0%} with a compression phase):"
        ]
        if self.begins and self.ends:
            lines.append(f"  compression begins at depth {self.begins} and ends at depth {self.ends}")
        if self.emergence is not None:
            writes, removals = (_in_words(stages, possible) for _, stages, possible in self._stages())
            lines.append(f"  sink token's norm written in {writes}; taken back in {removals}")
        return "\n".join(lines)


def phase_intervals(
    curves: Sequence[Float[np.ndarray, "prompt place"]],
    of_mean: Boundaries,
    thresholds: Thresholds,
    confidence: float,
    n_resamples: int,
    seed: int,
) -> PhaseIntervals:
    """Intervals of ``of_mean``, the boundaries of the mean of the prompts' curves."""
    table = prompts_with_values(np.concatenate(curves, axis=1))
    n = len(table)
    means = resampled_means(table, confidence, n_resamples, seed) if n > 1 else table[:0]
    cuts = np.cumsum([curve.shape[1] for curve in curves])[:-1]
    again = boundaries(np.split(means, cuts, axis=1), thresholds)
    kappa_ends = bootstrap_ends(means[:, : cuts[0]], n, confidence) if n > 1 else ()
    ends = np.stack([again.begins, again.ends], axis=1)
    span = place_intervals(of_mean.span or (), ends, n, confidence) or (None, None)
    stages: list[tuple[Place, ...] | None] = [None, None]
    shares: list[dict[int, float]] = [{}, {}]
    pairs = ((of_mean.emergence, again.emergence), (of_mean.dissipation, again.dissipation))
    for i, (layers, resampled) in enumerate(pairs):
        if layers is not None and resampled is not None:
            places, in_resamples = np.flatnonzero(~np.isnan(layers)).tolist(), ~np.isnan(resampled)
            stages[i] = place_intervals(places, matched_places(in_resamples, places), n, confidence)
            share = in_resamples.sum(0) / max(len(means), 1)
            shares[i] = {int(layer): float(share[layer]) for layer in np.flatnonzero(share)}
    return PhaseIntervals(
        confidence=confidence,
        n_prompts=n,
        n_resamples=n_resamples,
        seed=seed,
        n_depths=curves[0].shape[1],
        share=float((~np.isnan(again.begins)).mean()) if n > 1 else float("nan"),
        compression=tuple(zip(*(end.tolist() for end in kappa_ends), strict=True)) if n > 1 else (),
        begins=span[0],
        ends=span[1],
        emergence=stages[0],
        dissipation=stages[1],
        emergence_named=shares[0],
        dissipation_named=shares[1],
    )


def place_intervals(
    places: Sequence[int], resampled: Float[np.ndarray, "resample place"], n_prompts: int, confidence: float
) -> tuple[Place, ...]:
    """How sure each place is, from where it is in every resample; NaN in one that does not have it.

    The ends are always places that were taken by some resample; the place itself is included.
    """
    if not places or not len(resampled):
        return tuple(map(Place, places))
    intervals = []
    for place, low, high, series in zip(
        places, *bootstrap_ends(resampled, n_prompts, confidence), resampled.T, strict=True
    ):
        ends = (None, None) if np.isnan(low) else (min(place, int(low)), max(place, int(high)))
        shares = float((series == place).mean()), float((~np.isnan(series)).mean())
        intervals.append(Place(place, *ends, *shares))
    return tuple(intervals)


def matched_places(
    layers: Bool[np.ndarray, "resample layer"], places: Sequence[int]
) -> Float[np.ndarray, "resample place"]:
    """For each place, the nearest layer that a resample names; NaN where there is none.

    Every layer belongs to the nearest of the places, the earlier one where two are as near.
    """
    if not places:
        return np.empty((len(layers), 0))
    distance = np.abs(np.arange(layers.shape[1]) - np.array(places)[:, None])
    owner = distance.argmin(0) == np.arange(len(places))[:, None]
    near = np.where(layers[:, None] & owner, distance, np.inf)
    return np.where(np.isfinite(near).any(-1), near.argmin(-1), np.nan)


def _in_words(stages: tuple[Place, ...], possible: list[Place]) -> str:
    """The stages of the mean, and the layers that many resamples name besides."""
    listed, others = (
        ", ".join(f"{place} ({place.named:.0%})" for place in places) for places in (stages, possible)
    )
    noun = f"{len(stages)} stages, layers" if len(stages) > 1 else "layer" if stages else "no single layer"
    return f"{noun} {listed}".rstrip() + (f", in some resamples also {others}" if others else "")
