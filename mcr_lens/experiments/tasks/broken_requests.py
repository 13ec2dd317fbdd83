"""Requests of the lm-evaluation-harness that met Inf or NaN: what the harness makes of them means nothing."""

from collections.abc import Hashable, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Int

from mcr_lens.not_finite import LOST_LOGITS

__all__ = ["BrokenRequests"]

_BEYOND = np.iinfo(np.int64).max


class BrokenRequests:
    """Where the states and the logits of each request are broken; a request may be asked in several parts.

    Args:
        n_depths: how many depths are measured.
    """

    def __init__(self, n_depths: int) -> None:
        self._none = np.full(n_depths, -1)
        self._states: dict[Hashable, tuple[int, int]] = {}
        self._logits: dict[Hashable, Int[np.ndarray, "depth"]] = {}

    def keep(self, requests: Sequence[Hashable], found: xr.Dataset) -> None:
        """Keep the places that stand at the answers found, one a request."""
        places = zip(found.not_finite_depth.values, found.not_finite_position.values, strict=True)
        for request, place, lost in zip(requests, places, found[LOST_LOGITS].values, strict=True):
            if place[0] >= 0:
                self._states[request] = min(self._states.get(request, place), place)
            if (lost >= 0).any():
                self._logits[request] = _first([lost, self._logits.get(request, self._none)])

    def first_state(self, requests: Sequence[Hashable]) -> tuple[int, int]:
        """Depth and position at which a state of the requests first holds Inf or NaN; -1 and -1 if none does.

        From there on their log-likelihoods are NaN.
        """
        found = [self._states[request] for request in requests if request in self._states]
        return min(found, default=(-1, -1))

    def first_logits(self, requests: Sequence[Hashable]) -> Int[np.ndarray, "depth"]:
        """At each depth the first position whose logits are broken though its state is not; -1 for none.

        At such a depth their log-likelihoods are NaN.
        """
        return _first([self._none, *(self._logits.get(request, self._none) for request in requests)])


def _first(positions: Sequence[Int[np.ndarray, "depth"]]) -> Int[np.ndarray, "depth"]:
    """The least of several positions at each depth; -1 stands for none."""
    least = np.min([np.where(each >= 0, each, _BEYOND) for each in positions], axis=0)
    return np.where(least < _BEYOND, least, -1)
