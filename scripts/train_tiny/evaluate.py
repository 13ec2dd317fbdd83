"""The numbers on the progress line: loss, norm ratio, sink rate, entropy, on held-out questions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mcr_lens.metrics import (
    matrix_entropy,
    norm_ratio,
    normalized_entropy,
    sink_rate,
    sink_score,
    spectra,
)
from train_tiny.decoder import Decoder

__all__ = ["headline", "mean_loss", "measure_depths"]


@torch.no_grad()
def mean_loss(decoder: Decoder, windows: Sequence[list[int]]) -> float:
    """Cross-entropy in nats per token over windows that begin with `<bos>`."""
    total, count = 0.0, 0
    for window in windows:
        tokens = torch.tensor(window[: decoder.shape.window + 1])
        logits = decoder(tokens[None, :-1])[0].float()
        total += F.cross_entropy(logits, tokens[1:], reduction="sum").item()
        count += len(tokens) - 1
    return total / count


@torch.no_grad()
def measure_depths(decoder: Decoder, prompts: Sequence[list[int]]) -> dict[str, list[float]]:
    """Means over prompts: norm ratio and entropies by depth, sink rate and sink score by layer."""
    rows: dict[str, list[list[Tensor]]] = {}
    for prompt in prompts:
        trace = decoder.trace(torch.tensor(prompt)[None])
        row: dict[str, list[Tensor]] = {
            "norm_ratio": [norm_ratio(x)[0] for x in trace.residuals],
            "normalized_entropy": [],
            "normalized_entropy_without_sink": [],
        }
        for x in trace.residuals:
            both = spectra(x)
            pairs = zip(list(row)[1:], both, (len(prompt), len(prompt) - 1), strict=True)
            for name, values, tokens in pairs:
                entropy = matrix_entropy(values)
                row[name].append(normalized_entropy(entropy, tokens, x.shape[-1])[0])
        scores = [sink_score(pattern)[0] for pattern in trace.patterns]
        row["sink_rate"] = [sink_rate(score) for score in scores]
        row["sink_score"] = [score.mean() for score in scores]
        for name, values in row.items():
            rows.setdefault(name, []).append([value.double() for value in values])
    return {
        name: torch.stack([torch.stack(values) for values in runs]).mean(0).tolist()
        for name, runs in rows.items()
    }


def headline(depths: dict[str, list[float]]) -> dict[str, float]:
    """One number of each kind, from the means by depth and layer.

    `entropy_fall` is the largest normalized entropy before its minimum, less that minimum;
    `entropy_fall_without_sink` compares the same two depths; `refinement` is the share of the peak
    norm ratio that is gone at the last depth.
    """
    ratio, entropy = depths["norm_ratio"], depths["normalized_entropy"]
    rest = depths["normalized_entropy_without_sink"]
    low = min(range(len(entropy)), key=entropy.__getitem__)
    high = max(range(low + 1), key=entropy.__getitem__)
    peak = max(range(len(ratio)), key=ratio.__getitem__)
    return {
        "norm_ratio": ratio[peak],
        "norm_ratio_depth": peak,
        "norm_ratio_at_0": ratio[0],
        "refinement": 1 - ratio[-1] / ratio[peak],
        "sink_rate": max(depths["sink_rate"]),
        "sink_layers": sum(rate >= 0.5 for rate in depths["sink_rate"]),
        "sink_score": sum(depths["sink_score"]) / len(depths["sink_score"]),
        "entropy_fall": entropy[high] - entropy[low],
        "entropy_fall_without_sink": rest[high] - rest[low],
    }
