"""Two LAPACK routines called so that Python's other threads run on meanwhile.

SciPy's own wrappers hold the interpreter's lock while they solve: eigenvalues on a worker thread would make
the forward pass wait. The same routines are reached here through the pointers that SciPy publishes for
compiled callers (``scipy.linalg.cython_lapack``); a ctypes call gives the lock back.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread", "tridiagonal_eigenvalues", "tridiagonalise"]

_LAPACK = "scipy.linalg.cython_lapack"
# Columns that are reduced together; LAPACK's own choice for this routine.
_BLOCK = 32


def tridiagonalise(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal and off-diagonal of an orthogonally similar tridiagonal matrix (``dsytrd``, lower form).

    Args:
        gram: symmetric, float64, (n x n), n at least 2; it is overwritten.
    """
    # A symmetric matrix is its own transpose, so that its order in memory does not matter.
    n, matrix = len(gram), np.require(gram, np.float64, ["C", "W"])
    diagonal, off_diagonal, scale = np.empty(n), np.empty(n - 1), np.empty(n - 1)
    work = np.empty(n * _BLOCK)
    size, info = ctypes.c_int(n), ctypes.c_int()
    # Half of the work is matrix-vector products, on which BLAS threads wait for each other: one thread is
    # several times as fast as two.
    with one_blas_thread():
        _routine("dsytrd")(
            ctypes.c_char(b"L"), size, matrix.ctypes, size, diagonal.ctypes, off_diagonal.ctypes,
            scale.ctypes, work.ctypes, ctypes.c_int(len(work)), info,
        )  # fmt: skip
    if info.value != 0:
        raise RuntimeError(f"LAPACK dsytrd failed with info = {info.value}")
    return diagonal, off_diagonal


def tridiagonal_eigenvalues(diagonal: np.ndarray, off_diagonal: np.ndarray) -> np.ndarray:
    """Eigenvalues of a tridiagonal matrix, ascending (``dsterf``)."""
    values, rest, info = diagonal.copy(), off_diagonal.copy(), ctypes.c_int()
    _routine("dsterf")(ctypes.c_int(len(values)), values.ctypes, rest.ctypes, info)
    if info.value != 0:
        raise RuntimeError(f"LAPACK dsterf failed with info = {info.value}")
    return values


class _Routine:
    """A Fortran routine: every argument is handed over by its address."""

    def __init__(self, address: int) -> None:
        self._call = ctypes.CFUNCTYPE(None)(address)

    def __call__(self, *arguments: Any) -> None:
        given = [
            ctypes.c_void_p(each.data) if hasattr(each, "data") else ctypes.byref(each) for each in arguments
        ]
        self._call(*given)


@cache
def _routine(name: str) -> _Routine:
    capsule = import_module(_LAPACK).__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return _Routine(api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule)))


_inside = 0
_limit: Any = None
_lock = threading.Lock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS on one thread while any thread is inside; the first sets the limit and the last lifts it."""
    global _inside, _limit
    with _lock:
        if _inside == 0:
            _limit = _blas_threads().limit(limits=1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _limit.restore_original_limits()


@cache
def _blas_threads() -> Any:
    """Handle on the thread pools of the BLAS libraries, SciPy's own among them; looked up once."""
    import_module(_LAPACK)  # before the look-up, which sees only what is loaded
    return ThreadpoolController().select(user_api="blas")
