"""Prompts that are near-copies of each other: how many tokens they share, and what puts them together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from mcr_lens.errors import InputError
from mcr_lens.stats.bootstrap import cluster_numbers

__all__ = ["SHARED", "cluster_labels", "shared_tokens"]

# Prompts that share more of their tokens than this with another one may be near-copies.
SHARED = 0.5
# So many prompts are looked at: pairs grow with the square.
_PROMPTS = 256


def shared_tokens(tokens: Sequence[Sequence[int]]) -> float:
    """The share of a prompt's tokens that the most similar other prompt has, too; median over prompts.

    Tokens are counted as often as they stand there, wherever. Of the first 256 prompts; 0 for a single one.
    """
    tokens = tokens[:_PROMPTS]
    if len(tokens) < 2:
        return 0.0
    _, places = np.unique(np.concatenate([np.asarray(ids) for ids in tokens]), return_inverse=True)
    lengths = np.array([len(ids) for ids in tokens])
    owner = np.repeat(np.arange(len(tokens)), lengths)
    counts = np.zeros((len(tokens), places.max() + 1), dtype=np.int32)
    np.add.at(counts, (owner, places), 1)
    shares = []
    for i, own in enumerate(counts):
        common = np.minimum(own, counts).sum(1) / lengths[i]
        common[i] = 0
        shares.append(common.max())
    return float(np.median(shares))


def cluster_labels(cluster: Any, data: xr.Dataset) -> np.ndarray:
    """One label for each prompt: those given, or a coordinate of the prompts by its name.

    Raises:
        InputError: for a name that is no coordinate along the prompts, or another number of labels.
    """
    if isinstance(cluster, str):
        named = [str(name) for name, values in data.coords.items() if values.dims == ("prompt",)]
        if cluster not in named:
            raise InputError(
                f"cluster {cluster!r}: prompts have {', '.join(named)}; or give a list of labels"
            )
        cluster = data[cluster].values
    labels = np.asarray(cluster)
    cluster_numbers(labels, data.sizes["prompt"])
    return labels
