"""Places found again in resampled prompts: how often, and between which ends."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mcr_lens.errors import InputError
from mcr_lens.stats.bootstrap import bootstrap_ends, bootstrap_means, check_resampling

__all__ = ["Place", "interval", "matched_places", "place_interval", "resampled_means", "with_values"]


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


def with_values(table: Float[np.ndarray, "prompt ..."]) -> Float[np.ndarray, "prompt ..."]:
    """The prompts that have any value: the others are not drawn."""
    return table[~np.isnan(table.reshape(len(table), -1)).all(1)] if table.size else table[:0]


def resampled_means(
    table: Float[np.ndarray, "prompt ..."], confidence: float, n_resamples: int, seed: int
) -> Float[np.ndarray, "resample ..."]:
    """Means over whole prompts drawn anew with replacement, NaN left out in each column.

    Raises:
        InputError: for infinite values, or options out of range.
    """
    check_resampling(confidence, n_resamples, seed)
    if np.isinf(table).any():
        raise InputError(
            f"{np.isinf(table).sum()} values are infinite and have no interval: set them to NaN, "
            "or ask for none with confidence=None"
        )
    return bootstrap_means(table, n_resamples, np.random.default_rng(seed))


def interval(
    resampled: Float[np.ndarray, "resample"], n_prompts: int, confidence: float
) -> tuple[float, float]:
    """The expanded percentile interval (see ``bootstrap_interval``) of what resamples gave, NaN left out."""
    low, high = bootstrap_ends(resampled, np.asarray(n_prompts), confidence)
    return float(low), float(high)


def place_interval(
    place: int, resampled: Float[np.ndarray, "resample"], n_prompts: int, confidence: float
) -> Place:
    """How sure a place is; NaN in a resample that does not have it.

    The ends are always places that were taken by some resample; the place itself is included.
    """
    found = ~np.isnan(resampled)
    shares = float((resampled == place).mean()), float(found.mean())
    low, high = interval(resampled, n_prompts, confidence)
    if np.isnan(low):
        return Place(place, None, None, *shares)
    return Place(place, min(place, int(low)), max(place, int(high)), *shares)


def matched_places(
    named: Bool[np.ndarray, "resample place"], found: Sequence[int]
) -> Float[np.ndarray, "resample found"]:
    """For each place found, the nearest one that a resample names; NaN where there is none.

    Every place belongs to the nearest of those found, the earlier one where two are as near.
    """
    matched = np.full((len(named), len(found)), np.nan)
    places = np.arange(named.shape[1])
    distance = np.abs(places - np.asarray(found, dtype=int)[:, None])
    owner = distance.argmin(0) if len(found) else places
    for i in range(len(found)):
        near = np.where(named & (owner == i), distance[i], np.inf)
        exists = np.isfinite(near).any(1)
        matched[exists, i] = near[exists].argmin(1)
    return matched
