"""Squared singular values of the residual stream, prompt by prompt: what is left to solve, as calls.

They are taken from the smaller of the two Grams in float64. One Householder tridiagonalisation of the Gram
with the sink first gives two spectra at once: that of ``X`` and, as its trailing sub-matrix, that of ``X``
without the sink token. Nothing is subtracted, so both stay exact when the sink is 10^6 times the rest. That
serves one row only, since the first reflection mixes the second axis with the rest: of several sinks the Gram
of the others is a problem of its own.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.metrics.estimator import Estimator
from mcr_lens.metrics.rows import SinkPositions, full_lengths, sink_set
from mcr_lens.metrics.tridiagonal import rounding, spectra_of_rest, spectra_of_tokens, spectrum_of

__all__ = [
    "Eigenproblem",
    "Eigenvalues",
    "eigenproblems",
    "eigenproblems_of_gram",
    "rotate_to_first_axis",
    "unit_rows",
]

# Of one prompt: squared singular values in descending order, with and without the rows of the sinks.
Eigenvalues = tuple[np.ndarray, np.ndarray]
Eigenproblem = Callable[[], Eigenvalues]


def eigenproblems(
    residual: Float[Tensor, "batch pos d_model"],
    lengths: Int[Tensor, "batch"] | None = None,
    sink_position: SinkPositions = 0,
    estimator: Estimator = Estimator(),  # noqa: B008  (frozen)
) -> list[Eigenproblem]:
    """The work that ``spectra`` would do, a call a prompt, for ``on_every_core``."""
    batch, pos, _ = residual.shape
    lengths = full_lengths(batch, pos, lengths, sink_position)
    residual = residual.detach().cpu()
    return [
        partial(_spectra_of_prompt, rows[:length], sink_set(sink_position), estimator)
        for rows, length in zip(residual, lengths.tolist(), strict=True)
    ]


def eigenproblems_of_gram(
    sink: Float[Tensor, "batch d_model"],
    rest_gram: Float[Tensor, "batch d_model d_model"],
    more_sinks: Float[Tensor, "batch sinks d_model"] | None = None,
) -> list[Eigenproblem]:
    """The same for prompts longer than ``d_model``, whose rows are no longer at hand.

    Args:
        sink: the primary sink's row.
        rest_gram: float64 Gram of the rows of no sink, in a basis whose first axis is that sink's direction.
        more_sinks: rows of further sinks, in that basis.
    """
    masses = sink.double().square().sum(-1).tolist()
    grams = rest_gram.cpu().numpy()
    if more_sinks is None:
        return [partial(spectra_of_rest, gram, mass) for gram, mass in zip(grams, masses, strict=True)]
    rows = more_sinks.cpu().numpy()
    return [partial(_spectra_of_sinks, *each) for each in zip(grams, masses, rows, strict=True)]


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


def unit_rows(x: Float[Tensor, "*batch rows d_model"]) -> Float[Tensor, "*batch rows d_model"]:
    """Every row scaled to norm 1; rows of zeros stay zero."""
    norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(norms == 0, torch.zeros_like(x), x / norms)


def _spectra_of_prompt(
    rows: Float[Tensor, "pos d_model"], sinks: tuple[int, ...], estimator: Estimator
) -> Eigenvalues:
    """Both spectra of one prompt."""
    x, n = rows.double().numpy(), len(sinks)
    if sinks != (0,):
        x = np.concatenate([x[list(sinks)], np.delete(x, sinks, 0)])
    if estimator.needs_whole_prompt:
        return _transformed_spectrum(x, estimator), _transformed_spectrum(x[n:], estimator)
    if estimator.unit_rows:
        x = unit_rows(torch.from_numpy(x)).numpy()
    if len(x) > x.shape[1]:
        rest = rotate_to_first_axis(torch.from_numpy(x[1:]), torch.from_numpy(x[0])).numpy()
        gram, mass = rest[n - 1 :].T @ rest[n - 1 :], float(x[0] @ x[0])
        return spectra_of_rest(gram, mass) if n == 1 else _spectra_of_sinks(gram, mass, rest[: n - 1])
    full, without_sink = spectra_of_tokens(x @ x.T)
    return full, without_sink if n == 1 else spectrum_of(x[n:] @ x[n:].T)


def _spectra_of_sinks(
    rest_gram: Float[np.ndarray, "d_model d_model"],
    mass: float,
    more_sinks: Float[np.ndarray, "sinks d_model"],
) -> Eigenvalues:
    """Both spectra of a long prompt with several sinks."""
    full, _ = spectra_of_rest(rest_gram + more_sinks.T @ more_sinks, mass)
    return full, spectrum_of(rest_gram)


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
