"""The spectrum of the residual stream: matrix entropy, anisotropy, dominance.

The eigenvalues meant here are the squared singular values of ``X`` (tokens x d_model), with and without the
sink token's row; ``eigenproblems`` says how they are found.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.metrics.eigenproblems import Eigenvalues, eigenproblems
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.metrics.rows import SinkPositions
from mcr_lens.metrics.threads import on_every_core

__all__ = [
    "Spectra",
    "anisotropy",
    "dominance",
    "matrix_entropy",
    "normalized_entropy",
    "spectra",
    "stacked",
]


class Spectra(NamedTuple):
    """Squared singular values in descending order, padded with zeros to one width per batch."""

    full: Float[Tensor, "batch rank"]
    without_sink: Float[Tensor, "batch rank"]


def spectra(
    residual: Float[Tensor, "batch pos d_model"],
    lengths: Int[Tensor, "batch"] | None = None,
    sink_position: SinkPositions = 0,
    estimator: Estimator = Estimator(),  # noqa: B008  (frozen)
) -> Spectra:
    """Spectrum of each prompt's residual stream, with and without the rows of the sinks.

    Returns:
        ``Spectra`` of float64 tensors ``(batch, min(pos, d_model))``; NaN where the residual stream
        holds a NaN or an infinity.

    Example:
        >>> import torch
        >>> spectra(torch.eye(3)[None]).full
        tensor([[1., 1., 1.]], dtype=torch.float64)
    """
    problems = eigenproblems(residual, lengths, sink_position, estimator)
    return stacked(on_every_core(problems), min(residual.shape[1:]))


def matrix_entropy(eigenvalues: Float[Tensor, "*batch rank"], alpha: float = 1.0) -> Float[Tensor, "*batch"]:
    """Matrix-based entropy in nats: ``-sum p ln p``, ``p = eigenvalues / their sum``.

    With a Renyi order ``alpha`` other than 1, ``ln(sum p^alpha) / (1 - alpha)`` (``inf``: ``-ln max p``).
    NaN when every eigenvalue is 0.

    Example:
        >>> import torch
        >>> matrix_entropy(torch.tensor([1.0, 1.0])).exp()
        tensor(2., dtype=torch.float64)
    """
    p = eigenvalues.double() / eigenvalues.double().sum(-1, keepdim=True)
    if alpha == 1.0:
        return torch.special.entr(p).sum(-1)
    if alpha == float("inf"):
        return -p.amax(-1).log()
    return (p**alpha).sum(-1).log() / (1.0 - alpha)


def normalized_entropy(
    entropy: Float[Tensor, "*batch"],
    tokens: Int[Tensor, "*batch"] | int,
    d_model: int,
) -> Float[Tensor, "*batch"]:
    """``entropy / ln min(tokens, d_model)``, in [0, 1]; NaN where that logarithm is 0."""
    rank = torch.as_tensor(tokens, device=entropy.device).clamp(max=d_model).double()
    return torch.where(rank > 1, entropy / rank.log(), torch.nan)


def anisotropy(eigenvalues: Float[Tensor, "*batch rank"]) -> Float[Tensor, "*batch"]:
    """Share of the leading direction, ``p_1``, in (0, 1]."""
    values = eigenvalues.double()
    return values.amax(-1) / values.sum(-1)


def dominance(eigenvalues: Float[Tensor, "*batch rank"]) -> Float[Tensor, "*batch"]:
    """``sigma_1^2 / sum_{j>=2} sigma_j^2``; infinite for a matrix of rank one."""
    values = eigenvalues.double().sort(-1, descending=True).values
    return values[..., 0] / values[..., 1:].sum(-1)


def stacked(solved: Sequence[Eigenvalues], rank: int | None = None) -> Spectra:
    """One row a prompt, zeros where a prompt has fewer eigenvalues than ``rank``, or than the longest."""
    rank = max(len(full) for full, _ in solved) if rank is None else rank
    rows = np.zeros((2, len(solved), rank))
    for prompt, pair in enumerate(solved):
        for kind, values in enumerate(pair):
            rows[kind, prompt, : len(values)] = values
    full, without_sink = torch.from_numpy(rows)
    return Spectra(full, without_sink)
