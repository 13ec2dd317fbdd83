"""An account of the alignment: what the first singular value of the residual stream is made of."""

import numpy as np
import pandas as pd

from mcr_lens.phases.curves import ProfileLike, by_prompt, dataset_of, require_raw_estimator
from mcr_lens.stats.bootstrap import bootstrap_interval, mean_of_prompts
from mcr_lens.validate import check_resampling

__all__ = ["PARTS", "first_singular_value"]

_ROUNDING = 1e-9
PARTS = ("sink token", "aligned rest", "neither")


def first_singular_value(
    profile: ProfileLike, *, confidence: float = 0.95, n_resamples: int = 999, seed: int = 0
) -> pd.DataFrame:
    """Of sigma_1^2, how much is the sink token's mass, how much the others' alignment, how much neither.

    With ``M = ||x_s||^2``, ``R`` the squared norms of the others, ``c = M / R`` and the alignment ``alpha``,
    the paper's theorem says ``sigma_1^2 >= M + alpha R``, and ``sigma_1^2 = p_1 (M + R)`` with the
    anisotropy ``p_1``. The shares of each prompt are::

        sink token    M / sigma_1^2         = c / ((1 + c) p_1)
        aligned rest  alpha R / sigma_1^2   = alpha / ((1 + c) p_1)
        neither       1 - the two, by the theorem not below 0: sigma_1 points elsewhere

    "sink token" near 1: the mass alone makes the valley. "aligned rest": what the other tokens add by
    pointing along it. A large "neither": the dominant direction is not the sink token's.

    Args:
        profile: a profile with the raw estimator, or its dataset.
        confidence: coverage aimed at by the bootstrap intervals of the means over prompts.
        n_resamples, seed: of the resampling.

    Returns:
        A row a depth; columns ``(part, "mean" | "low" | "high")``, fractions of 1. NaN where no prompt has
        a value; ``low`` and ``high`` are NaN with one prompt. ``attrs`` holds the options and the number of
        prompts.

    Raises:
        InputError: for another estimator, of which the theorem does not speak, several profiles at once,
            or options out of range.
    """
    check_resampling(confidence, n_resamples, seed)
    data = dataset_of(profile)
    require_raw_estimator(data)
    shares = _shares(*(by_prompt(data, name) for name in ("norm_mass_ratio", "alignment", "anisotropy")))
    ends = (np.full(shares.shape[1:], np.nan),) * 2
    if (~np.isnan(shares)).any():
        ends = bootstrap_interval(shares, confidence=confidence, n_resamples=n_resamples, seed=seed)
    columns = {
        (part, name): values[:, i]
        for i, part in enumerate(PARTS)
        for name, values in zip(("mean", "low", "high"), (mean_of_prompts(shares), *ends), strict=True)
    }
    table = pd.DataFrame(columns, index=pd.Index(data.depth.values, name="depth"))
    table.attrs = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    table.attrs["n_prompts"] = int((~np.isnan(shares)).any(axis=(1, 2)).sum())
    return table


def _shares(ratio: np.ndarray, alignment: np.ndarray, anisotropy: np.ndarray) -> np.ndarray:
    """(prompt, depth, part); NaN where any of the three is undefined."""
    alone = np.isposinf(ratio)  # R = 0: the sink token is all there is
    with np.errstate(invalid="ignore", divide="ignore"):
        mass = np.where(alone, 1.0, ratio / (1 + ratio)) / anisotropy
        aligned = np.where(alone, 0.0, alignment / (1 + ratio)) / anisotropy
    parts = np.stack([mass, aligned, 1 - mass - aligned], axis=-1)
    # The theorem makes the last part 0 or more: a little below 0 is rounding, more would be seen.
    parts[..., 2] = np.where(abs(parts[..., 2]) < _ROUNDING, 0.0, parts[..., 2])
    return np.where(np.isnan(parts).any(-1, keepdims=True), np.nan, parts)
