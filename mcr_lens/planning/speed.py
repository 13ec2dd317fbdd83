"""What a machine does a second: measured with the package's own pieces, or told."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mcr_lens.metrics.residual_state import ResidualState
from mcr_lens.metrics.tridiagonal import spectra_of_tokens
from mcr_lens.models.backend import Backend
from mcr_lens.planning.shape import ModelShape
from mcr_lens.planning.trial import passing_seconds

__all__ = ["SpectrumSpeed", "Speed"]

# Bytes that one element of a layer's stream, of a pattern or of a depth's statistics moves in all. Counted,
# not measured; for a machine that is told of.
_ACTIVATION_BYTES, _PATTERN_BYTES, _RESIDUAL_BYTES = 200, 120, 200
# A byte for this many operations, where only the operations are told: an A100 has 160, an H100 300.
_INTENSITY = 200
# Larger matrices are measured at this size, and the rest is the cube of the sizes.
_LARGEST_SPECTRUM = 1536
# Elements that suffice to be out of every cache.
_ELEMENTS = 2**21


@dataclass(frozen=True)
class SpectrumSpeed:
    """Float64 on the host, one prompt at a time.

    Attributes:
        cube: seconds of both spectra of size n, over n cubed.
        gram: operations a second of a product.
        threads: PyTorch's; as many prompts are solved at once.
    """

    cube: float
    gram: float
    threads: int

    @classmethod
    def here(cls, n: int) -> SpectrumSpeed:
        """Measured on this machine with matrices of size ``n``: small ones are far from n cubed."""
        return cls(*_spectra(max(2, min(n, _LARGEST_SPECTRUM)), torch.get_num_threads()))


@dataclass(frozen=True)
class Speed:
    """What a machine does with a model, in the dtype of the run.

    Attributes:
        flops: operations a second in matrix products.
        call: seconds a layer takes for every block of tokens, however small: hooks and small operations.
        activation: seconds an element of the stream takes in a layer, matrix products apart.
        pattern: seconds an element of an attention pattern takes, our observers included.
        residual: seconds an element of a residual stream takes, spectra apart.
        measured: whether all this was measured here.
    """

    flops: float
    call: float
    activation: float
    pattern: float
    residual: float
    measured: bool

    @classmethod
    def here(
        cls,
        shape: ModelShape,
        *,
        batch: int,
        rows: int,
        dtype: str,
        backend: Backend,
        flops: float | None = None,
        device: str = "cpu",
    ) -> Speed:
        """Measured here, within a few seconds, on blocks of ``batch`` prompts of ``rows`` tokens.

        ``flops`` speaks of another machine: then memory-bound work is put at a byte for 200 operations, and
        only what Python does between the operations is measured.
        """
        told = flops is not None
        rate = flops if told else _product(shape, batch * rows, dtype, device)
        passing = passing_seconds(backend, dtype, "cpu" if told else device, rate, only_calls=told)
        if told:
            second = rate / _INTENSITY
            return cls(
                rate,
                passing.call,
                _ACTIVATION_BYTES / second,
                _PATTERN_BYTES / second,
                _RESIDUAL_BYTES / second,
                False,
            )
        residual = _residual(shape, batch, rows, dtype, device)
        return cls(rate, passing.call, passing.activation, passing.pattern, residual, True)


@functools.cache
def _spectra(n: int, threads: int) -> tuple[float, float, int]:
    """Seconds over n cubed, operations a second of a product, and the threads they were measured with."""
    rows = np.random.default_rng(0).standard_normal((n, n))
    product = 2 * n**3 / _typical(lambda: rows @ rows.T, 0.1)
    gram = rows @ rows.T
    cube = _typical(lambda: spectra_of_tokens(gram.copy()), 0.4) / n**3
    return cube, product, threads


def _product(shape: ModelShape, tokens: int, dtype: str, device: str) -> float:
    """Operations a second of a product such as a block's."""
    most = 2**11 if device == "cpu" else 2**13
    m, k, n = (min(size, most) for size in (tokens, shape.d_model, shape.d_mlp))
    kind = {"dtype": getattr(torch, dtype), "device": device}
    left, right = torch.randn(m, k, **kind), torch.randn(n, k, **kind)
    return 2.0 * m * k * n / _typical(lambda: _wait(left @ right.T, device), 0.5)


def _residual(shape: ModelShape, batch: int, rows: int, dtype: str, device: str) -> float:
    """Seconds an element, of what we do to a residual stream before its spectrum."""
    rows = min(rows, shape.d_model)  # the Gram of longer prompts is counted with the spectra
    batch = max(1, min(batch, _ELEMENTS // (rows * shape.d_model)))
    states = torch.randn(batch, rows, shape.d_model, dtype=getattr(torch, dtype), device=device)
    lengths = torch.full((batch,), rows)

    def once() -> object:
        ResidualState(lengths).update(states)
        return _wait(states, device)

    return _typical(once, 0.3) / states.numel()


def _wait(result: torch.Tensor, device: str) -> torch.Tensor:
    """A device works ahead: reading one number waits for it."""
    if device != "cpu":
        result.flatten()[0].item()
    return result


def _typical(work: Callable[[], object], seconds: float) -> float:
    """Median of the runs that fit the time, at least one after the first, which warms up."""
    work()
    runs: list[float] = []
    end = time.perf_counter() + seconds
    while not runs or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        runs.append(time.perf_counter() - start)
    return statistics.median(runs)
