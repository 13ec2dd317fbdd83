"""The same model on different kinds of text: how much of each phase depends on the input."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy.special import ndtri, stdtrit

from mcr_lens.errors import InputError
from mcr_lens.phases import find_phases
from mcr_lens.results import Profile
from mcr_lens.stats.bootstrap import bootstrap_ends
from mcr_lens.validate import check_resampling

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
        the last three with intervals over the prompts of each kind (``_low``, ``_high``).

    Raises:
        InputError: for fewer than two kinds, kinds of one prompt, or models of different shape.
    """
    check_resampling(confidence, n_resamples, seed)
    if len(profiles) < 2:
        raise InputError("give profiles of two or more kinds of text, as in {'prose': ..., 'code': ...}")
    datasets = {kind: profile.data for kind, profile in profiles.items()}
    if single := [kind for kind, data in datasets.items() if data.sizes["prompt"] < 2]:
        raise InputError(f"{single[0]}: one prompt has no spread, give two or more")
    models = {(x.attrs.get("model"), x.sizes["depth"], x.sizes.get("head")) for x in datasets.values()}
    if len(models) > 1:
        names = ", ".join(sorted(map(str, models)))
        raise InputError(f"the profiles are of different models ({names}): give one model's")
    rows = []
    for (phase, depths), measure in product(_phases(profiles).items(), MEASURES):
        if all(measure in data for data in datasets.values()):
            samples = [_values(profile, measure, depths) for profile in profiles.values()]
            if samples[0].shape[1]:
                row = _row(samples, confidence, n_resamples, seed)
                rows.append({"phase": phase, "measure": measure, **row})
    return pd.DataFrame(rows)


def _phases(profiles: Mapping[str, Profile]) -> dict[str, range]:
    """Depths of each phase, found in the mean over kinds; all depths as one where there are none."""
    curves = ["matrix_entropy", "entropy_without_sink"]
    means = [profile.data[curves].mean("prompt") for profile in profiles.values()]
    phases = find_phases(xr.concat(means, "prompt"), confidence=None)
    if phases.compress is None:
        return {"all depths": range(means[0].sizes["depth"])}
    spans = {"Mix": phases.mix, "Compress": phases.compress, "Refine": phases.refine}
    return {name: range(span[0], span[1] + 1) for name, span in spans.items() if span}


def _values(profile: Profile, measure: str, depths: range) -> Float[np.ndarray, "prompt place"]:
    """One column for each head, or depth, of these depths."""
    data = profile[measure]
    along = "depth" if "depth" in data.dims else "layer"
    places = data.sel({along: [depth for depth in depths if depth in data[along]]})
    columns = places.transpose("prompt", ...).values.reshape(data.sizes["prompt"], -1)
    return columns[:, ~np.isnan(columns).any(0)]


def _row(
    samples: list[Float[np.ndarray, "prompt place"]], confidence: float, n_resamples: int, seed: int
) -> dict[str, float]:
    """Spreads of one measure in one phase, with intervals.

    Percentiles of resampled spreads between kinds would be wrong: resampled means carry the noise of few
    prompts twice, and the estimator takes it off once. But the spread of the means is a length, and the
    true means lie no farther from those of the sample than resampled means do: so neither does the length.
    """
    rng = np.random.default_rng(seed)
    n = min(len(part) for part in samples)
    means = np.stack([part.mean(0) for part in samples])
    per_kind = np.array([part.var(0, ddof=1).mean() for part in samples])
    # What means of so few prompts would differ by is taken off.
    noise = per_kind / np.array([len(part) for part in samples])
    within = float(per_kind.mean())
    between = max(float(_length(means) ** 2 - noise.mean()), 0.0)
    resamples = [_resampled(part, n_resamples, rng) for part in samples]
    resample_means, resample_variances = (np.stack(parts) for parts in zip(*resamples, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 where nothing differs at all
        # The spread that resamples are drawn from is the sample's own, n prompts being all there are.
        exact = np.mean([part.var(0).mean() for part in samples])
        ratio = bootstrap_ends(resample_variances.mean(-1).mean(0) / exact, n, confidence)
        within_ends = [float(np.sqrt(within / end)) for end in reversed(ratio)] if within > 0 else [0.0, 0.0]
    distances = _length(resample_means - means[:, None])
    # Tails of few prompts, as bootstrap_interval has them.
    wider = np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 + confidence) / 2) / ndtri((1 + confidence) / 2)
    radius = float(np.quantile(distances, confidence) * wider)
    length = float(_length(means))
    between_ends = max(length - radius, 0.0), length + radius
    # The least share is that of the most within and the least between.
    squares = np.square(within_ends), np.square(between_ends)
    pairs = (within, between), (squares[0][1], squares[1][0]), (squares[0][0], squares[1][1])
    shares = [b / (w + b) if w + b > 0 else np.nan for w, b in pairs]
    row = {"mean": np.mean([part.mean() for part in samples])}
    spreads = {
        "within_kind": (np.sqrt(within), *within_ends),
        "between_kinds": (np.sqrt(between), *between_ends),
        "share_between": shares,
    }
    for name, ends in spreads.items():
        row |= {f"{name}{end}": value for end, value in zip(("", "_low", "_high"), ends, strict=True)}
    return {name: float(value) for name, value in row.items()}


def _length(means: Float[np.ndarray, "kind *resample place"]) -> Float[np.ndarray, "*resample"]:
    """Standard deviation between kinds, its square averaged over places."""
    return np.sqrt(means.var(0, ddof=1).mean(-1))


def _resampled(
    sample: Float[np.ndarray, "prompt place"], n_resamples: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "resample place"], Float[np.ndarray, "resample place"]]:
    """Mean and variance of prompts drawn anew, as products of counts and powers."""
    n = len(sample)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(np.float64)
    centred = sample - sample.mean(0)
    shift = counts @ centred / n
    variance = np.maximum(counts @ centred**2 / n - shift**2, 0) * n / (n - 1)
    return sample.mean(0) + shift, variance
