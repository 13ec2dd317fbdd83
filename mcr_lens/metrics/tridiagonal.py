"""Two spectra from one Householder tridiagonalisation: with the sink token, and without it.

The lower form leaves the first axis alone. With the sink first, the trailing sub-matrix of the
tridiagonal matrix is similar to the Gram of the other tokens, so the second spectrum costs next to
nothing; and as the sink's mass stands alone in the first row, the rest keeps its own precision.
"""

import numpy as np

from mcr_lens.metrics.lapack import tridiagonal_eigenvalues, tridiagonalise

__all__ = ["rounding", "spectra_of_rest", "spectra_of_tokens", "spectrum_of"]


def spectra_of_tokens(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both spectra, descending, from the Gram of the tokens (n x n), the sink first."""
    diagonal, off_diagonal = _tridiagonal(gram)
    noise = rounding(diagonal[1:], len(gram))
    full = _eigenvalues(diagonal, off_diagonal, noise)
    return full, _eigenvalues(diagonal[1:], off_diagonal[1:], noise)


def spectra_of_rest(rest_gram: np.ndarray, sink_mass: float) -> tuple[np.ndarray, np.ndarray]:
    """Both spectra, descending, for many tokens.

    Args:
        rest_gram: Gram of the other tokens (d x d), the sink's direction first.
        sink_mass: ``||x_s||^2``.
    """
    diagonal, off_diagonal = _tridiagonal(rest_gram)
    noise = rounding(diagonal, len(diagonal))
    without_sink = _eigenvalues(diagonal, off_diagonal, noise)
    diagonal[0] += sink_mass
    return _eigenvalues(diagonal, off_diagonal, noise), without_sink


def spectrum_of(gram: np.ndarray) -> np.ndarray:
    """The spectrum of one Gram, descending."""
    if not len(gram):
        return np.zeros(0)
    diagonal, off_diagonal = _tridiagonal(gram)
    return _eigenvalues(diagonal, off_diagonal, rounding(diagonal, len(gram)))


def rounding(rest_diagonal: np.ndarray, n: int) -> float:
    """What rounding makes of an eigenvalue that is 0.

    It scales with the mass of the other tokens, not with the sink's: the sink stands alone in the first
    row of the Gram, so that the tail stays exact however large the sink is.
    """
    return 4.0 * n * np.finfo(np.float64).eps * float(rest_diagonal.sum())


def _tridiagonal(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal and off-diagonal of an orthogonally similar tridiagonal matrix.

    The lower form leaves the first axis alone, so the trailing sub-matrix of the result is similar to
    the trailing sub-matrix of ``gram``: the second spectrum costs next to nothing.
    """
    if len(gram) == 1 or not np.isfinite(gram).all():
        fill = gram[0, 0] if len(gram) == 1 else np.nan
        return np.full(len(gram), fill), np.full(len(gram) - 1, fill)
    return tridiagonalise(gram)


def _eigenvalues(diagonal: np.ndarray, off_diagonal: np.ndarray, noise: float) -> np.ndarray:
    """Eigenvalues of a tridiagonal Gram, descending; those that are nothing but rounding are 0."""
    if not (np.isfinite(diagonal).all() and np.isfinite(off_diagonal).all()):
        return np.full(len(diagonal), np.nan)
    if len(diagonal) <= 1:
        return np.array(diagonal)
    values = tridiagonal_eigenvalues(diagonal, off_diagonal)[::-1]
    return np.where(values > noise, values, 0.0)
