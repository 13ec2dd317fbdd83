"""Boundaries of the phases and layers that write or remove, read from one set of curves or many at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from mcr_lens.phases.compression import MIN_ENTROPY_DROP, MIN_NORM_RATIO, compression_span
from mcr_lens.phases.curves import by_prompt
from mcr_lens.phases.emergence import MIN_SHARE, WRITES, named_layers

__all__ = ["Boundaries", "Thresholds", "boundaries", "boundary_curves"]


class Thresholds(NamedTuple):
    """See ``find_phases``."""

    min_norm_ratio: float = MIN_NORM_RATIO
    min_entropy_drop: float = MIN_ENTROPY_DROP
    min_share: float = MIN_SHARE


class Boundaries(NamedTuple):
    """What one set of curves shows, or each of many.

    Attributes:
        begins, ends: first and last depth of the compression phase, NaN where there is none.
        layers: which are emergence and which dissipation layers; ``None`` for curves without writes.
    """

    begins: Float[np.ndarray, "*curve"]
    ends: Float[np.ndarray, "*curve"]
    layers: tuple[Bool[np.ndarray, "*curve layer"], Bool[np.ndarray, "*curve layer"]] | None

    @property
    def span(self) -> tuple[int, int] | None:
        """The compression phase of a single set of curves."""
        return None if np.isnan(self.begins) else (int(self.begins), int(self.ends))


def boundary_curves(data: xr.Dataset) -> list[Float[np.ndarray, "prompt place"]]:
    """What boundaries are read from, of every prompt: entropy, norm ratio, and writes if there are any."""
    names = WRITES if "mlp_write_norm" in data else WRITES[:1]
    return [by_prompt(data, name) for name in ("normalized_entropy", *names)]


def boundaries(curves: Sequence[Float[np.ndarray, "*curve place"]], thresholds: Thresholds) -> Boundaries:
    """The boundaries of each set of curves: those of ``boundary_curves``, or means of them."""
    entropy, ratio, *writes = curves
    begins, ends = compression_span(ratio, entropy, thresholds.min_norm_ratio, thresholds.min_entropy_drop)
    layers = None
    if writes:
        layers = named_layers([ratio, *writes], thresholds.min_share, thresholds.min_norm_ratio)
    return Boundaries(begins, ends, layers)
