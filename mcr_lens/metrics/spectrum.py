"""The spectrum of the residual stream: matrix entropy, anisotropy, dominance, and their estimators.

The eigenvalues meant here are the squared singular values of ``X`` (tokens x d_model), taken from the
smaller of the two Grams in float64. One Householder tridiagonalisation of the Gram with the sink
first gives two spectra at once: that of ``X`` and, as its trailing sub-matrix, that of ``X`` without
the sink token. Nothing is subtracted, so both stay exact when the sink is 10^6 times the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.metrics.rows import full_lengths
from mcr_lens.metrics.threads import on_every_core
from mcr_lens.metrics.tridiagonal import rounding, spectra_of_rest, spectra_of_tokens

__all__ = [
    "Eigenproblem",
    "Eigenvalues",
    "Estimator",
    "Spectra",
    "anisotropy",
    "dominance",
    "eigenproblems",
    "eigenproblems_of_gram",
    "matrix_entropy",
    "normalized_entropy",
    "rotate_to_first_axis",
    "spectra",
    "stacked",
    "unit_rows",
]


@dataclass(frozen=True)
class Estimator:
    """How the matrix entropy is estimated; stored with every result.

    Attributes:
        center: subtract the mean row first (default: raw, as in the paper).
        unit_rows: scale every row to norm 1 first.
        alpha: Renyi order; 1 is the von Neumann (Shannon) entropy.
        preset: ``"raw"``, or ``"layer-by-layer"`` for the other estimator in the literature
            (Skean et al. 2025): centre, unit rows, the smaller Gram clamped at 0 elementwise, its
            positive eigenvalues renormalised.

    Centring needs every row at once, so such estimators refuse chunks (``needs_whole_prompt``).
    """

    center: bool = False
    unit_rows: bool = False
    alpha: float = 1.0
    preset: Literal["raw", "layer-by-layer"] = "raw"

    def __post_init__(self) -> None:
        if self.preset not in ("raw", "layer-by-layer"):
            raise InputError(f"estimator preset {self.preset!r}: use 'raw' or 'layer-by-layer'")
        if not self.alpha > 0:
            raise InputError(f"Renyi order alpha = {self.alpha}: use a number above 0")

    @property
    def is_raw(self) -> bool:
        """True for the Shannon entropy of the untouched ``X``, which the theorem speaks of."""
        return self.preset == "raw" and not (self.center or self.unit_rows) and self.alpha == 1.0

    @property
    def needs_whole_prompt(self) -> bool:
        """True when the estimator cannot be accumulated over chunks of a prompt."""
        return self.center or self.preset == "layer-by-layer"

    def as_dict(self) -> dict[str, object]:
        """The options as plain values, for the attributes of a result."""
        return asdict(self)


# Of one prompt: squared singular values in descending order, with and without the sink token's row.
Eigenvalues = tuple[np.ndarray, np.ndarray]
Eigenproblem = Callable[[], Eigenvalues]


class Spectra(NamedTuple):
    """Squared singular values in descending order, padded with zeros to one width per batch."""

    full: Float[Tensor, "batch rank"]
    without_sink: Float[Tensor, "batch rank"]


def spectra(
    residual: Float[Tensor, "batch pos d_model"],
    lengths: Int[Tensor, "batch"] | None = None,
    sink_position: int = 0,
    estimator: Estimator = Estimator(),
) -> Spectra:
    """Spectrum of each prompt's residual stream, with and without the sink token's row.

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


def eigenproblems(
    residual: Float[Tensor, "batch pos d_model"],
    lengths: Int[Tensor, "batch"] | None = None,
    sink_position: int = 0,
    estimator: Estimator = Estimator(),
) -> list[Eigenproblem]:
    """The work that ``spectra`` would do, a call a prompt, for ``on_every_core``."""
    batch, pos, _ = residual.shape
    lengths = full_lengths(batch, pos, lengths, sink_position)
    residual = residual.detach().cpu()
    return [
        partial(_spectra_of_prompt, rows[:length], sink_position, estimator)
        for rows, length in zip(residual, lengths.tolist(), strict=True)
    ]


def eigenproblems_of_gram(
    sink: Float[Tensor, "batch d_model"],
    rest_gram: Float[Tensor, "batch d_model d_model"],
) -> list[Eigenproblem]:
    """The same for prompts longer than ``d_model``, whose rows are no longer at hand.

    Args:
        sink: the sink token's row.
        rest_gram: float64 Gram of the other rows, in a basis whose first axis is the sink's direction.
    """
    masses = sink.double().square().sum(-1).tolist()
    grams = rest_gram.cpu().numpy()
    return [partial(spectra_of_rest, gram, mass) for gram, mass in zip(grams, masses, strict=True)]


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


def unit_rows(x: Float[Tensor, "*batch rows d_model"]) -> Float[Tensor, "*batch rows d_model"]:
    """Every row scaled to norm 1; rows of zeros stay zero."""
    norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(norms == 0, torch.zeros_like(x), x / norms)


def _spectra_of_prompt(
    rows: Float[Tensor, "pos d_model"], sink_position: int, estimator: Estimator
) -> Eigenvalues:
    """Both spectra of one prompt."""
    x = rows.double().numpy()
    if sink_position != 0:
        x = np.concatenate([x[sink_position : sink_position + 1], np.delete(x, sink_position, 0)])
    if estimator.needs_whole_prompt:
        return _transformed_spectrum(x, estimator), _transformed_spectrum(x[1:], estimator)
    if estimator.unit_rows:
        x = unit_rows(torch.from_numpy(x)).numpy()
    if len(x) > x.shape[1]:
        rest = rotate_to_first_axis(torch.from_numpy(x[1:]), torch.from_numpy(x[0])).numpy()
        return spectra_of_rest(rest.T @ rest, float(x[0] @ x[0]))
    return spectra_of_tokens(x @ x.T)


def rotate_to_first_axis(
    rows: Float[Tensor, "*batch rows d_model"], sink: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch rows d_model"]:
    """Rows in a basis whose first axis is the sink's direction (one Householder reflection).

    The identity where the sink row is 0.
    """
    norm = torch.linalg.vector_norm(sink, dim=-1, keepdim=True)
    # The sign avoids cancellation: the reflector never becomes small.
    mirror = sink.clone()
    mirror[..., :1] += torch.where(sink[..., :1] >= 0, norm, -norm)
    length = torch.linalg.vector_norm(mirror, dim=-1, keepdim=True)
    mirror = torch.where(length > 0, mirror / length, torch.zeros_like(mirror))
    along = torch.einsum("...rd,...d->...r", rows, mirror)
    return rows - 2.0 * along[..., None] * mirror[..., None, :]


def _transformed_spectrum(x: Float[np.ndarray, "pos d_model"], estimator: Estimator) -> np.ndarray:
    """Eigenvalues after the centring, scaling and clamping of the estimator."""
    layer_by_layer = estimator.preset == "layer-by-layer"
    if estimator.center or layer_by_layer:
        x = x - x.mean(axis=0, keepdims=True)
    if estimator.unit_rows or layer_by_layer:
        x = unit_rows(torch.from_numpy(x)).numpy()
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    if layer_by_layer:
        gram = np.clip(gram, 0.0, None)
    if not np.isfinite(gram).all():
        return np.full(len(gram), np.nan)
    values = np.linalg.eigvalsh(gram)[::-1]
    return np.where(values > rounding(np.abs(np.diag(gram)), len(gram)), values, 0.0)


def stacked(solved: Sequence[Eigenvalues], rank: int | None = None) -> Spectra:
    """One row a prompt, zeros where a prompt has fewer eigenvalues than ``rank``, or than the longest."""
    rank = max(len(full) for full, _ in solved) if rank is None else rank
    rows = np.zeros((2, len(solved), rank))
    for prompt, pair in enumerate(solved):
        for kind, values in enumerate(pair):
            rows[kind, prompt, : len(values)] = values
    full, without_sink = torch.from_numpy(rows)
    return Spectra(full, without_sink)
