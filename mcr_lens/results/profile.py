"""``Profile``: what was measured of a model by prompt, depth, layer and head, and its derived rates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from mcr_lens import phases, results
from mcr_lens.errors import InputError
from mcr_lens.results.result import Result
from mcr_lens.results.tables import count
from mcr_lens.thresholds import SINK_THRESHOLD

if TYPE_CHECKING:
    from mcr_lens.phases import ChangePoints, Phases
    from mcr_lens.results.concat import Dimension

__all__ = ["STACKED", "Profile"]

# Dimensions along which profiles are put together.
STACKED = ("model", "step", "arm")
_SUMMARY = (
    "norm_ratio",
    "normalized_entropy",
    "normalized_entropy_without_sink",
    "anisotropy",
    "anisotropy_bound",
)
_DERIVED = (
    "sink_compression",
    "mass_share",
    "half_length",
    "reach",
    "sink_rate",
    "col_sum_rate",
    "sink_versus_identity",
)
_SLACK = {
    "entropy": ("entropy_bound", "matrix_entropy"),
    "anisotropy": ("anisotropy", "anisotropy_bound"),
    "dominance": ("dominance", "dominance_bound"),
}


class Profile(Result):
    """What was measured of a model on a set of prompts.

    Attributes:
        data: an ``xarray.Dataset`` with dimensions ``prompt``, ``depth`` (L + 1), ``layer`` (L) and ``head``,
            coordinates ``n_tokens`` and ``first_token``, and how it was made in ``attrs``. Rates at a
            threshold are methods, never stored. A prompt whose residual stream holds Inf or NaN is NaN from
            there on; ``not_finite_depth`` says where that begins (-1: nowhere).
    """

    kind = "profile"
    dims = ("depth", "prompt")

    def __getitem__(self, name: str) -> xr.DataArray:
        """A stored variable, or one that is derived: see ``sink_compression`` and the others below."""
        if name in _DERIVED and name not in self.data:
            return getattr(self, name)()
        return super().__getitem__(name)

    def sink_compression(self) -> xr.DataArray:
        """Kappa = 1 - H / H_rest, (prompt, depth); see ``mcr_lens.phases.sink_compression``."""
        return phases.sink_compression(self.data)

    def mass_share(self) -> xr.DataArray:
        """The sink's share of the squared mass, (prompt, depth); see ``mcr_lens.phases.mass_share``."""
        return phases.mass_share(self.data)

    def half_length(self) -> xr.DataArray:
        """The length at which the sink holds half of the mass; see ``mcr_lens.phases.half_length``."""
        return phases.half_length(self.data)

    def reach(self) -> xr.DataArray:
        """The longest prompt that the sink would compress; see ``mcr_lens.phases.reach``."""
        return phases.reach(self.data)

    def sink_rate(self, threshold: float = SINK_THRESHOLD, *, excess: bool = False) -> xr.DataArray:
        """Fraction of heads whose sink score is at least the threshold, (prompt, layer).

        With ``excess`` the score of a head that attends evenly (``phases.even_sink_score``) is subtracted
        first: in a prompt of 9 tokens or fewer such a head alone has more than 0.3.
        """
        scores = self["sink_score"]
        if excess:
            scores = (scores - phases.even_sink_score(self.data)).transpose(*scores.dims)
        return _rate(scores, threshold).rename("sink_rate")

    def col_sum_rate(
        self, threshold: float = SINK_THRESHOLD, statistic: Literal["max", "concentration"] = "max"
    ) -> xr.DataArray:
        """Fraction of heads with a sink *anywhere*, (prompt, layer); never below the sink rate.

        ``statistic="concentration"`` asks how unequally the columns are fed instead of the largest.
        """
        if statistic not in ("max", "concentration"):
            raise InputError(f"statistic {statistic!r}: use 'max' or 'concentration'")
        return _rate(self[f"col_sum_{statistic}"], threshold).rename("col_sum_rate")

    def sink_versus_identity(self, *, as_share: bool = False) -> xr.DataArray:
        """``(sink_attention - identity_score) / (their sum)``, in [-1, 1], (prompt, layer, head).

        With ``as_share``, ``x = sink_attention / (their sum)``, in [0, 1]; the other is ``2 x - 1``.
        """
        sink, identity = self["sink_attention"], self["identity_score"]
        return ((sink if as_share else sink - identity) / (sink + identity)).rename("sink_versus_identity")

    def slack(self, bound: Literal["entropy", "anisotropy", "dominance"]) -> xr.DataArray:
        """How far a measured value is from the theorem's bound, (prompt, depth); never negative.

        Raises:
            InputError: when the profile's estimator is not the raw one, which the theorem speaks of.
        """
        upper, lower = self._bound_pair(bound)
        return (upper - lower).where(~_met(upper, lower), 0.0).rename(f"{bound}_slack")

    def tightness(self, bound: Literal["entropy", "anisotropy", "dominance"]) -> xr.DataArray:
        """The smaller over the larger of a measured value and its bound: 1 where the bound is met."""
        upper, lower = self._bound_pair(bound)
        return (lower / upper).where(~_met(upper, lower), 1.0).rename(f"{bound}_tightness")

    def phases(
        self,
        *,
        confidence: float | None = 0.95,
        n_resamples: int = 999,
        seed: int = 0,
        **thresholds: float,
    ) -> Phases:
        """Mix, Compress and Refine by kappa; see ``mcr_lens.phases.find_phases``.

        With intervals over prompts for the boundaries, the emergence and the dissipation layers, and the
        share of resamples that have a compression phase at all; ``confidence=None`` leaves them out.
        """
        return phases.find_phases(
            self.data, **thresholds, confidence=confidence, n_resamples=n_resamples, seed=seed
        )

    def change_points(self, **options: Any) -> ChangePoints:
        """Where the joint curves change, with intervals; see ``mcr_lens.phases.change_points``."""
        return phases.change_points(self.data, **options)

    def correlations(self, **options: Any) -> pd.DataFrame:
        """Change of norm against entropy, sinks and mixing; see ``mcr_lens.phases.correlations``."""
        return phases.correlations(self.data, **options)

    def constancy(self, **thresholds: float) -> pd.DataFrame:
        """Where each single prompt has the boundaries; see ``mcr_lens.phases.constancy``."""
        return phases.constancy(self.data, **thresholds)

    def first_singular_value(self, **options: Any) -> pd.DataFrame:
        """What sigma_1 is made of, a row a depth; see ``mcr_lens.phases.first_singular_value``."""
        return phases.first_singular_value(self.data, **options)

    def emergence_layers(self, **thresholds: float) -> list[int]:
        """Layers whose writes make the sink token massive; see ``mcr_lens.phases``."""
        return phases.emergence_layers(self.data, **thresholds)

    def dissipation_layers(self, **thresholds: float) -> list[int]:
        """Layers that take the sink token's norm away; see ``mcr_lens.phases``."""
        return phases.dissipation_layers(self.data, **thresholds)

    def over_prompts(self, name: str, low: float = 0.25, high: float = 0.75) -> xr.Dataset:
        """``mean``, ``low`` and ``high`` quantile over prompts of a stored or derived variable.

        Head variables are averaged over heads first; what is left is one curve over depth or layer.
        ``sink_compression`` is clipped at -1, as in ``phases``.
        """
        values = self[name].clip(min=-1.0) if name == "sink_compression" else self[name]
        if "head" in values.dims:
            values = values.mean("head")
        with warnings.catch_warnings():
            # Where every prompt is broken there is no quantile: NaN says it.
            warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)
            ends = values.quantile([low, high], dim="prompt")
        return xr.Dataset(
            {
                "mean": values.mean("prompt"),
                "low": ends.isel(quantile=0, drop=True),
                "high": ends.isel(quantile=1, drop=True),
            }
        )

    def summary(self) -> pd.DataFrame:
        """Means over prompts, a row a depth; what belongs to a layer stands at the depth it reads.

        ``learned_sink_mass`` is a column where the model has a learned sink.
        """
        means = {name: self.data[name].mean("prompt") for name in _SUMMARY}
        if self.has_phases:
            kappa = self.sink_compression().clip(min=-1.0).mean("prompt")
            means = {"norm_ratio": means["norm_ratio"], "sink_compression": kappa} | means
        if "sink_score" in self.data:
            means["sink_rate"] = self.sink_rate().mean("prompt")
        of_heads = ["mixing_score", *(["learned_sink_mass"] if self.data.attrs.get("learned_sink") else [])]
        means |= {name: self.data[name].mean(["prompt", "head"]) for name in of_heads if name in self.data}
        return pd.DataFrame({name: mean.to_series() for name, mean in means.items()}).rename_axis("depth")

    @classmethod
    def concat(
        cls,
        profiles: Sequence[Profile],
        dim: Dimension,
        labels: Sequence[object] | None = None,
    ) -> Profile:
        """Several profiles as one, along prompts or along a new labelled dimension.

        Along ``"prompt"`` they must be of one model and one estimator; prompts are numbered anew. Along the
        others the prompts must be the same; models of different depth are padded with NaN.

        Args:
            labels: coordinate of the new dimension; the models' names by default for ``"model"``.
        """
        from mcr_lens.results.concat import concat_datasets

        return cls(concat_datasets([profile.data for profile in profiles], dim, labels))

    def _repr_html_(self) -> str:
        return self._html(None if self.is_stacked else self.summary())

    @property
    def headline(self) -> str:
        """Model, prompts and size, in one line."""
        sizes = self.data.sizes
        stacked = "".join(f"{count(sizes[dim], dim)}, " for dim in STACKED if dim in sizes)
        return (
            f"Profile of {self.model_name}, {stacked}{count(sizes['prompt'], 'prompt')} of up to "
            f"{int(self.data.n_tokens.max())} tokens, {sizes['depth'] - 1} layers x "
            f"{sizes.get('head', 0)} heads"
        )

    def sentences(self) -> list[str]:
        """Mix, Compress and Refine in one line; ``mcr_lens.results.findings`` says more."""
        if self.is_stacked:
            return ["several profiles: select one to read its phases"]
        if not self.has_phases:
            return ["none are read without the entropies of the raw estimator"]
        return [self.phases(confidence=None).headline]

    def caveats(self) -> list[str]:
        """What to beware of, one sentence each; of several profiles, ask each."""
        return super().caveats() if self.is_stacked else results.caveats(self)

    def table(self) -> pd.DataFrame:
        """``summary()``; of several profiles their norm ratio by depth."""
        if not self.is_stacked:
            return self.summary()
        ratio = self.data.norm_ratio.mean("prompt")
        along = [dim for dim in ratio.dims if dim != "depth"]
        if len(along) > 1:
            ratio = ratio.stack({"profile": along})
        return ratio.transpose("depth", ...).to_pandas()

    @property
    def has_phases(self) -> bool:
        """Whether phases can be read: one profile, of the raw estimator, with both entropies."""
        measured = {"matrix_entropy", "entropy_without_sink"} <= set(self.data)
        return measured and not self.is_stacked and phases.is_raw(self.data)

    @property
    def is_stacked(self) -> bool:
        """Whether there are several profiles, along ``model``, ``step`` or ``arm``."""
        return bool(set(STACKED) & set(self.data.norm_ratio.dims))

    def _bound_pair(self, bound: str) -> tuple[xr.DataArray, xr.DataArray]:
        if bound not in _SLACK:
            raise InputError(f"bound {bound!r}: use one of {', '.join(_SLACK)}")
        phases.require_raw_estimator(self.data)
        upper, lower = _SLACK[bound]
        return self[upper], self[lower]


def _rate(scores: xr.DataArray, threshold: float) -> xr.DataArray:
    """Fraction of heads with at least that score, of those that have one."""
    return (scores >= threshold).where(scores.notnull()).mean("head")


def _met(upper: xr.DataArray, lower: xr.DataArray) -> xr.DataArray:
    """Where a value and its bound are the same to float error, infinities and zeros included."""
    return xr.apply_ufunc(partial(np.isclose, rtol=1e-9, atol=1e-12), upper, lower)
