"""Profiles made by hand, so that what must be read off them is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

import mcr_lens as mcr

ATTRIBUTES = {
    "model": "made by hand",
    "revision": None,
    "backend": "bridge",
    "processing": "raw",
    "dtype": "float32",
    "failed_checks": {},
    "estimator": {"preset": "raw", "center": False, "unit_rows": False, "alpha": 1.0},
    "sink_position": 0,
    "prompts": {"source": "by hand", "digest": "0", "bos": "given", "truncated": 0, "dropped": 0},
}


def orthogonal_kappa(ratio: np.ndarray) -> np.ndarray:
    """w - h(w) / H_rest of a sink token orthogonal to seven others of norm 1, whose entropy is .9 ln 8."""
    w = ratio**2 / (ratio**2 + 7)
    with np.errstate(divide="ignore", invalid="ignore"):
        h = -np.nan_to_num(w * np.log(w)) - np.nan_to_num((1 - w) * np.log(1 - w))
    return w - h / (0.9 * np.log(8))


def made_profile(
    norm_ratio: Sequence[float],
    entropy: Sequence[float] | None = None,
    mlp_write: Sequence[float] | None = None,
    attention_write: Sequence[float] | None = None,
    sink_score: Any = None,
    n_prompts: int = 2,
    **attributes: Any,
) -> mcr.Profile:
    """A profile whose mean over prompts is what is given; prompts differ by +-10 % around it.

    kappa is 1 - entropy / 0.9, the same for every prompt. Entropy that is not given is that of a sink token
    orthogonal to seven others.

    The other tokens have norm 1, so the sink token's norm is the ratio. What is not given is flat.
    """
    ratio = np.asarray(norm_ratio, dtype=float)
    n_depths = len(ratio)
    n_layers = n_depths - 1
    flat = np.full(n_depths, 0.9)
    spread_out = flat * (1 - orthogonal_kappa(ratio)) if entropy is None else np.asarray(entropy, dtype=float)
    mlp = np.diff(ratio) if mlp_write is None else np.asarray(mlp_write, dtype=float)
    attention = np.zeros(n_layers) if attention_write is None else np.asarray(attention_write, dtype=float)
    spread = np.linspace(-0.1, 0.1, n_prompts) if n_prompts > 1 else np.zeros(1)

    def by_prompt(values: Any) -> np.ndarray:
        return (1 + spread)[:, None] * np.asarray(values, dtype=float)[None]

    depth = {
        "sink_norm": by_prompt(ratio),
        "norm_ratio": by_prompt(ratio),
        "normalized_entropy": by_prompt(spread_out),
        "normalized_entropy_without_sink": by_prompt(flat),
        "matrix_entropy": by_prompt(spread_out * np.log(8)),
        "entropy_without_sink": by_prompt(flat * np.log(8)),
        "norm_mass_ratio": by_prompt(ratio**2 / 7),
        "entropy_bound": by_prompt(spread_out * np.log(8) + 0.5),
        "anisotropy": by_prompt(flat),
        "anisotropy_bound": by_prompt(flat - 0.2),
        "dominance": by_prompt(ratio),
        "dominance_bound": by_prompt(ratio / 2),
        "top_activation": by_prompt(ratio),
        "median_activation": by_prompt(np.full(n_depths, 0.1)),
    }
    layer = {
        "mlp_write_along": by_prompt(mlp),
        "attention_write_along": by_prompt(attention),
        "mlp_write_norm": by_prompt(np.abs(mlp)),
        "attention_write_norm": by_prompt(np.abs(attention)),
    }
    scores = np.full((n_prompts, n_layers, 4), 0.1) if sink_score is None else np.asarray(sink_score, float)
    head = {
        "sink_score": scores,
        "sink_attention": scores,
        "identity_score": np.full_like(scores, 0.1),
        "mixing_score": np.full_like(scores, 0.5),
        "col_sum_max": np.maximum(scores, 0.2),
        "col_sum_concentration": np.full_like(scores, 0.4),
    }
    data = xr.Dataset(
        {
            **{name: (("prompt", "depth"), values) for name, values in depth.items()},
            **{name: (("prompt", "layer"), values) for name, values in layer.items()},
            **{name: (("prompt", "layer", "head"), values) for name, values in head.items()},
        },
        coords={
            "prompt": np.arange(n_prompts),
            "depth": np.arange(n_depths),
            "layer": np.arange(n_layers),
            "head": np.arange(scores.shape[2]),
            "n_tokens": ("prompt", np.arange(8, 8 + n_prompts)),
            "first_token": ("prompt", np.ones(n_prompts, dtype=int)),
        },
        attrs=ATTRIBUTES | attributes,
    )
    return mcr.Profile(data)
