"""What a study reads from a run: one number for each outcome and prompt."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from mcr_lens.phases import sink_compression
from mcr_lens.phases.compression import typical_compression
from mcr_lens.thresholds import SINK_THRESHOLD

__all__ = ["BY_DEPTH", "OUTCOMES", "outcomes_of", "reference_of"]

BY_DEPTH = ("norm_ratio", "normalized_entropy", "normalized_entropy_without_sink")
OUTCOMES = (*BY_DEPTH, "sink_compression", "sink_rate", "sink_score", "loss")


def outcomes_of(data: xr.Dataset, attributes: Mapping[str, Any]) -> xr.Dataset:
    """One number for each outcome and prompt.

    Norm ratio, entropies and kappa (clipped at -1) are means over the depths where the baseline is
    compressed. Sink rate and score are means over heads and over the layers that read these depths, without
    the first layer after each edited one: it reads the norm through a LayerNorm, ``LN(a x) = LN(x)``, so no
    edit of the norm can change its sinks. Where none is left, they are of all later layers but those, and
    NaN without any. The loss (nats a token) is that of the last depth, the model's own. A prompt whose states
    hold Inf or NaN at one of these depths has no outcome but NaN.
    """
    depths = attributes["compressed_depths"]
    outcomes = {name: data[name].sel(depth=depths).mean("depth") for name in BY_DEPTH}
    outcomes["sink_compression"] = typical_compression(_kappa(data, attributes).sel(depth=depths)).mean(
        "depth"
    )
    score = data["sink_score"].sel(layer=sink_layers(data.layer.values.tolist(), attributes))
    rate = (score >= SINK_THRESHOLD).where(score.notnull())
    outcomes |= {"sink_rate": rate.mean(["layer", "head"]), "sink_score": score.mean(["layer", "head"])}
    outcomes["loss"] = data["lens_loss"].isel(depth=-1, drop=True)
    table = xr.Dataset({name: outcomes[name] for name in OUTCOMES})
    begins = data.coords.get("not_finite_depth")
    return table if begins is None else table.where((begins < 0) | (begins > depths[-1]))


def sink_layers(layers: list[int], attributes: Mapping[str, Any]) -> list[int]:
    """The layers whose sinks are an outcome; see ``outcomes_of``."""
    edited = [int(layer) for layer in attributes.get("writes", {})]
    first_after = {layer + 1 for layer in edited}
    read = [d for d in attributes["compressed_depths"] if d in layers and d not in first_after]
    return read or [x for x in layers if x > min(edited, default=-1) and x not in first_after]


def reference_of(outcome: str, baseline: xr.Dataset) -> np.ndarray | None:
    """What the outcome is for each prompt where the sink plays no role; ``None`` where that is not known.

    No kappa and no sinks; a token as large as the others; entropy as without the sink at the same depths.
    """
    if outcome in ("normalized_entropy_without_sink", "loss"):
        return None
    if outcome == "normalized_entropy":
        return baseline["normalized_entropy_without_sink"].values
    return np.full(baseline.sizes["prompt"], 1.0 if outcome == "norm_ratio" else 0.0)


def _kappa(data: xr.Dataset, attributes: Mapping[str, Any]) -> xr.DataArray:
    """Kappa, also of files from before it was stored; NaN where they do not tell."""
    if {"matrix_entropy", "entropy_without_sink"} <= set(data):
        return sink_compression(data)
    if "n_tokens" not in data.coords or "d_model" not in attributes:
        return xr.full_like(data["normalized_entropy"], np.nan)
    # An entropy is normalized by the logarithm of the largest possible number of directions.
    ranks = [np.log(np.minimum(data.n_tokens - rows, attributes["d_model"])) for rows in (0, 1)]
    whole, rest = data["normalized_entropy"] * ranks[0], data["normalized_entropy_without_sink"] * ranks[1]
    return sink_compression(xr.Dataset({"matrix_entropy": whole, "entropy_without_sink": rest}))
