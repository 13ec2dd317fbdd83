"""The same model on different kinds of text: how much of each phase depends on the input."""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy.stats import DegenerateDataWarning, bootstrap

from mcr_lens.errors import InputError
from mcr_lens.phases import find_phases
from mcr_lens.result import Profile

__all__ = ["input_dependence"]

MEASURES = ("mixing_score", "sink_attention", "identity_score", "norm_ratio", "normalized_entropy")


def input_dependence(
    profiles: Mapping[str, Profile],
    *,
    confidence: float = 0.95,
    n_resamples: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """How far prompts, and kinds of text, differ in what each phase does.

    Of every head (or depth) the variance over prompts is split in two: within one kind of text
    (``within_kind``), and between the means of the kinds (``between_kinds``), each kind counting the same;
    what means of so few prompts would differ by is taken off. Both are standard deviations, the roots of
    the variances averaged over the heads and layers (or depths) of a phase: a head that is a sink for some
    prompts only has a large one. ``share_between`` is the second variance in the sum of both. The phases
    are those of the mean of all kinds; a layer is in the phase of the depth that it reads.

    The paper (arXiv 2510.06477) says that early mixing hardly depends on the input and late sinks do:
    compare ``mixing_score`` in Mix with ``sink_attention`` in Compress and Refine. Scores depend on the
    length of a prompt: cut all kinds to one length (``Prompts.cut``).

    Args:
        profiles: kind of text to profile, all of one model; two or more.

    Returns:
        A row for each phase and measure: ``mean``, ``within_kind``, ``between_kinds`` and ``share_between``,
        the last three with bootstrap intervals over the prompts of each kind (``_low``, ``_high``).

    Raises:
        InputError: for fewer than two kinds, kinds of one prompt, or models of different shape.
    """
    _check(profiles)
    phases = _phases(profiles)
    rows = []
    for name, depths in phases.items():
        for measure in MEASURES:
            if all(measure in profile.data for profile in profiles.values()):
                samples = [_values(profile, measure, depths) for profile in profiles.values()]
                if samples[0].shape[1]:
                    found = _row(samples, confidence, n_resamples, seed)
                    rows.append({"phase": name, "measure": measure, **found})
    return pd.DataFrame(rows)


def _check(profiles: Mapping[str, Profile]) -> None:
    if len(profiles) < 2:
        raise InputError("give profiles of two or more kinds of text, as in {'prose': ..., 'code': ...}")
    few = [name for name, profile in profiles.items() if profile.data.sizes["prompt"] < 2]
    if few:
        raise InputError(f"{few[0]}: one prompt has no spread, give two or more")
    models = {
        (profile.data.attrs.get("model"), profile.data.sizes["depth"], profile.data.sizes.get("head"))
        for profile in profiles.values()
    }
    if len(models) > 1:
        raise InputError(
            f"the profiles are of different models ({sorted(map(str, models))}): give one model's"
        )


def _phases(profiles: Mapping[str, Profile]) -> dict[str, list[int]]:
    """Depths of each phase, found in the mean over kinds; all depths as one where there are none."""
    curves = ("norm_ratio", "normalized_entropy")
    means = [profile.data[list(curves)].mean("prompt") for profile in profiles.values()]
    found = find_phases(xr.concat(means, "prompt"), confidence=None)
    last = means[0].sizes["depth"] - 1
    spans = {"Mix": found.mix, "Compress": found.compress, "Refine": found.refine}
    phases = {name: list(range(span[0], span[1] + 1)) for name, span in spans.items() if span is not None}
    return phases if found.compress is not None else {"all depths": list(range(last + 1))}


def _values(profile: Profile, measure: str, depths: list[int]) -> Float[np.ndarray, "prompt place"]:
    """One column for each head, or depth, of these depths."""
    data = profile[measure]
    along = "depth" if "depth" in data.dims else "layer"
    chosen = data.sel({along: [depth for depth in depths if depth in data[along]]})
    columns = chosen.transpose("prompt", ...).values.reshape(data.sizes["prompt"], -1)
    return columns[:, ~np.isnan(columns).any(0)]


def _row(
    samples: list[Float[np.ndarray, "prompt place"]], confidence: float, n_resamples: int, seed: int
) -> dict[str, float]:
    def statistic(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        """Spread within, spread between, and the share of the latter, stacked first."""
        within = np.mean([part.var(axis, ddof=1) for part in drawn], axis=0)
        means = np.stack([part.mean(axis) for part in drawn])
        # Means of few prompts differ by themselves: what that accounts for is taken off.
        noise = np.mean([part.var(axis, ddof=1) / part.shape[axis] for part in drawn], axis=0)
        inside = within.mean(0)
        outside = np.maximum((means.var(0, ddof=1) - noise).mean(0), 0)
        with np.errstate(invalid="ignore"):  # 0 / 0 where nothing differs at all
            return np.stack([np.sqrt(inside), np.sqrt(outside), outside / (inside + outside)])

    # Prompts last, as scipy wants them; each kind is resampled by itself.
    turned = [part.T for part in samples]
    found = statistic(*turned)
    with warnings.catch_warnings():
        # A share of nothing is NaN, which scipy takes for a failure of its own.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        interval = bootstrap(
            turned,
            statistic,
            vectorized=True,
            axis=-1,
            method="percentile",
            confidence_level=confidence,
            n_resamples=n_resamples,
            batch=50,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    row = {"mean": float(np.mean([part.mean() for part in samples]))}
    for i, name in enumerate(("within_kind", "between_kinds", "share_between")):
        row |= {name: float(found[i])}
        row |= {f"{name}_low": float(interval.low[i]), f"{name}_high": float(interval.high[i])}
    return row
