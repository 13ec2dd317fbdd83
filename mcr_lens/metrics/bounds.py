"""The theorem: what a massive token forces on the spectrum of the residual stream.

With ``M = ||x_s||^2``, ``R = sum_{i != s} ||x_i||^2``, ``c = M / R`` and ``alpha`` the squared cosine of
the other tokens with the sink token, averaged with weights ``||x_i||^2``, any residual stream obeys
``sigma_1^2 >= M + alpha R``, and from it the three bounds below. They speak of the raw, uncentred
matrix. Source: arXiv 2510.06477, section 2.2.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.metrics.rows import full_lengths, rest_rows

__all__ = [
    "Masses",
    "alignment",
    "anisotropy_bound",
    "dominance_bound",
    "entropy_bound",
    "masses",
    "norm_mass_ratio",
    "split_norms",
]


class Masses(NamedTuple):
    """Squared Frobenius mass of the residual stream, split at the sink token's direction.

    ``rest = rest_along + rest_across``, each summed directly: near the theorem's limit one of the two
    is tiny, and a difference would lose it.
    """

    sink: Float[Tensor, "*batch"]
    rest: Float[Tensor, "*batch"]
    rest_along: Float[Tensor, "*batch"]
    rest_across: Float[Tensor, "*batch"]


def masses(
    residual: Float[Tensor, "batch pos d_model"],
    lengths: Int[Tensor, "batch"] | None = None,
    sink_position: int = 0,
) -> Masses:
    """``M``, ``R``, ``alpha R`` and ``(1 - alpha) R`` of each prompt, in float64."""
    batch, pos, _ = residual.shape
    lengths = full_lengths(batch, pos, lengths, sink_position)
    keep = rest_rows(lengths, pos, 0, sink_position, residual.device)
    rows = torch.where(keep[..., None], residual.double(), 0.0)
    sink = residual[:, sink_position].double()
    return Masses(sink.square().sum(-1), *split_mass(rows, sink))


def split_mass(
    rows: Float[Tensor, "*batch rows d_model"], sink: Float[Tensor, "*batch d_model"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Squared mass of the rows: whole, along the sink token's direction, across it."""
    norms, along, across = split_norms(rows, sink)
    return norms.square().sum(-1), along.square().sum(-1), across.square().sum(-1)


def split_norms(
    rows: Float[Tensor, "*batch rows d_model"], sink: Float[Tensor, "*batch d_model"]
) -> tuple[Float[Tensor, "*batch rows"], Float[Tensor, "*batch rows"], Float[Tensor, "*batch rows"]]:
    """Norm of each row, its component along the sink token's direction, and the norm of what is across."""
    norm = torch.linalg.vector_norm(sink, dim=-1, keepdim=True)
    direction = torch.where(norm > 0, sink / norm, torch.zeros_like(sink))
    along = (rows @ direction[..., None]).squeeze(-1)
    # Summed directly: across a massive sink there is little left, and a difference would lose it.
    across = torch.linalg.vector_norm(rows - along[..., None] * direction[..., None, :], dim=-1)
    norms = torch.linalg.vector_norm(rows, dim=-1)
    # What is left of a row that is parallel to the sink is rounding.
    across = torch.where(across <= 8 * torch.finfo(rows.dtype).eps * norms, 0.0, across)
    return norms, along, across


def norm_mass_ratio(mass: Masses) -> Float[Tensor, "*batch"]:
    """``c = M / R``: the sink token's share against all others together; infinite when ``R = 0``."""
    return mass.sink / mass.rest


def alignment(mass: Masses) -> Float[Tensor, "*batch"]:
    """``alpha``: how far the other tokens point along the sink token, in [0, 1]; NaN when ``x_s = 0``."""
    return torch.where(mass.sink > 0, mass.rest_along / mass.rest, torch.nan)


def anisotropy_bound(mass: Masses) -> Float[Tensor, "*batch"]:
    """``p = (c + alpha) / (c + 1)``, never above the anisotropy ``p_1``."""
    return (mass.sink + mass.rest_along) / (mass.sink + mass.rest)


def dominance_bound(mass: Masses) -> Float[Tensor, "*batch"]:
    """``(c + alpha) / (1 - alpha)``, never above ``sigma_1^2 / sum_{j>=2} sigma_j^2``."""
    return (mass.sink + mass.rest_along) / mass.rest_across


def entropy_bound(mass: Masses, tokens: Int[Tensor, "*batch"] | int, d_model: int) -> Float[Tensor, "*batch"]:
    """``-p ln p - (1-p) ln(1-p) + (1-p) ln(r-1)`` with ``r = min(tokens, d_model)``, in nats.

    Never below the matrix entropy, for every ``p``: ``p`` is a diagonal entry of ``X^T X / trace`` in a
    basis of the row space that contains ``x_s``. For ``x_s = 0`` nothing is known but ``ln r``.
    """
    rank = torch.as_tensor(tokens, device=mass.sink.device).clamp(max=d_model).double()
    left_over = mass.rest_across / (mass.sink + mass.rest)
    p = anisotropy_bound(mass)
    bound = (
        -torch.special.xlog1py(p, -left_over)
        + torch.special.entr(left_over)
        + torch.special.xlogy(left_over, rank - 1)
    )
    return torch.where(mass.sink > 0, bound, rank.log())
