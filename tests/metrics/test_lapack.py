"""The two LAPACK routines against NumPy, also when several threads call them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from mcr_lens.metrics.lapack import tridiagonal_eigenvalues, tridiagonalise


def gram(n: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, n + 3))
    return x @ x.T


@pytest.mark.parametrize("n", [2, 3, 31, 32, 33, 100, 257])
def test_eigenvalues_are_numpys(n: int) -> None:
    matrix = gram(n)
    diagonal, off_diagonal = tridiagonalise(matrix.copy())
    expected = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(
        tridiagonal_eigenvalues(diagonal, off_diagonal), expected, rtol=1e-9, atol=1e-9
    )
    full = np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
    np.testing.assert_allclose(np.linalg.eigvalsh(full), expected, rtol=1e-9, atol=1e-9)
    # The first axis is left alone: what remains without it is similar to the rest of the matrix.
    assert diagonal[0] == pytest.approx(matrix[0, 0])
    without = np.linalg.eigvalsh(matrix[1:, 1:])
    np.testing.assert_allclose(np.linalg.eigvalsh(full[1:, 1:]), without, rtol=1e-9, atol=1e-9)


def test_threads_do_not_disturb_each_other_nor_the_blas_afterwards() -> None:
    before = [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()]

    def solve(seed: int) -> np.ndarray:
        return tridiagonal_eigenvalues(*tridiagonalise(gram(120, seed)))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(solve, range(24)))
    for seed, values in enumerate(found):
        np.testing.assert_allclose(values, np.linalg.eigvalsh(gram(120, seed)), rtol=1e-9, atol=1e-9)
    after = [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()]
    assert after == before
