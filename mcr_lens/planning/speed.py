"""Seconds: operations counted from the shapes, over what a machine was measured, or told, to do a second."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mcr_lens.metrics.attention_state import AttentionState
from mcr_lens.metrics.residual_state import ResidualState
from mcr_lens.metrics.tridiagonal import spectra_of_tokens
from mcr_lens.planning.shape import ModelShape

__all__ = ["Seconds", "Speed", "seconds_needed"]

# Bytes that one element of a pattern, or of a residual stream, moves in all: softmax and our passes over
# float32, and float64. Counted, not measured; for a machine that is told of.
_PATTERN_BYTES, _RESIDUAL_BYTES = 120, 200
# A byte for this many operations, where only the operations are told: an A100 has 160, an H100 300.
_INTENSITY = 200
_SPECTRUM_N = 512


@dataclass(frozen=True)
class Speed:
    """What a machine does.

    Attributes:
        flops: operations a second in matrix products of the run's dtype.
        pattern: seconds an element of an attention pattern takes.
        residual: seconds an element of a residual stream takes, spectra apart.
        spectrum: seconds of one spectrum of size n, over n cubed (LAPACK on one thread of the host).
        gram: operations a second of a float64 product on the host.
        measured: whether ``flops``, ``pattern`` and ``residual`` were measured here.
    """

    flops: float
    pattern: float
    residual: float
    spectrum: float
    gram: float
    measured: bool

    @classmethod
    def here(cls, dtype: str, flops: float | None = None, device: str = "cpu") -> Speed:
        """Measured here within about two seconds.

        ``flops`` speaks of another machine: then memory-bound work is put at a byte for 200 operations,
        and only the spectra are measured.
        """
        gram = np.random.default_rng(0).standard_normal((_SPECTRUM_N, _SPECTRUM_N))
        product = 2 * _SPECTRUM_N**3 / _typical(lambda: gram @ gram, 0.2)
        gram = gram @ gram.T
        spectrum = _typical(lambda: spectra_of_tokens(gram.copy()), 0.4) / _SPECTRUM_N**3
        if flops is not None:
            second = flops / _INTENSITY
            return cls(flops, _PATTERN_BYTES / second, _RESIDUAL_BYTES / second, spectrum, product, False)
        return cls(
            _matmul(dtype, device),
            _typical(_pattern(device), 0.3) / _PATTERN_ELEMENTS,
            _typical(_residual(device), 0.3) / _RESIDUAL_ELEMENTS,
            spectrum,
            product,
            True,
        )


@dataclass(frozen=True)
class Seconds:
    """An estimate, part by part."""

    forward: float
    patterns: float
    residuals: float
    spectra: float
    transfer: float = 0.0

    @property
    def total(self) -> float:
        """Sum of the parts: they follow each other."""
        return self.forward + self.patterns + self.residuals + self.spectra + self.transfer

    @property
    def between(self) -> tuple[float, float]:
        """From 0.8 to 2.5 times the sum: runs took 1.3 to 2.1 times it, as ``docs/scale.md`` shows."""
        return 0.8 * self.total, 2.5 * self.total


def seconds_needed(
    shape: ModelShape,
    batches: Sequence[tuple[int, int]],
    lengths: Sequence[int],
    speed: Speed,
    *,
    moved: float = 0.0,
) -> Seconds:
    """Time of one pass over ``batches`` of ``(prompts, tokens of the longest)``.

    Args:
        moved: seconds that offloaded weights take to be brought in, in all.
    """
    tokens = sum(size * longest for size, longest in batches)
    pairs = sum(size * longest**2 for size, longest in batches)
    heads = shape.n_layers * shape.n_heads
    attention = 4.0 * heads * shape.d_head * pairs
    streams = (shape.n_layers + 1) * tokens * shape.d_model
    cubes = sum(min(length, shape.d_model) ** 3 for length in lengths)
    grams = sum(2.0 * length * shape.d_model * min(length, shape.d_model) for length in lengths)
    return Seconds(
        forward=(2.0 * shape.active_parameters * tokens + attention) / speed.flops,
        patterns=heads * pairs * speed.pattern,
        residuals=streams * speed.residual,
        spectra=(shape.n_layers + 1) * (cubes * speed.spectrum + grams / speed.gram),
        transfer=moved,
    )


_PATTERN_SHAPE = (4, 8, 256, 256)
_RESIDUAL_SHAPE = (4, 512, 512)
_PATTERN_ELEMENTS = math.prod(_PATTERN_SHAPE)
_RESIDUAL_ELEMENTS = math.prod(_RESIDUAL_SHAPE)


def _matmul(dtype: str, device: str) -> float:
    """Operations a second of a product such as a block's."""
    n = 1024 if device == "cpu" else 8192
    left, right = torch.randn(2, n, n, device=device).to(getattr(torch, dtype))
    return 2.0 * n**3 / _typical(lambda: _wait(left @ right, device), 1.0)


def _pattern(device: str) -> Callable[[], object]:
    """What a model does to its scores, and we to its pattern."""
    batch, _, queries, keys = _PATTERN_SHAPE
    scores = torch.randn(_PATTERN_SHAPE, device=device)
    past = torch.ones(queries, keys, dtype=torch.bool, device=device).tril()
    lengths = torch.full((batch,), queries)

    def once() -> object:
        state = AttentionState(lengths)
        state.update(torch.where(past, scores / 8.0, -torch.inf).softmax(-1))
        return _wait(state.result()["sink_score"], device)

    return once


def _residual(device: str) -> Callable[[], object]:
    """What we do to a residual stream before its spectrum."""
    states = torch.randn(_RESIDUAL_SHAPE, device=device)
    lengths = torch.full(_RESIDUAL_SHAPE[:1], _RESIDUAL_SHAPE[1])

    def once() -> object:
        ResidualState(lengths).update(states)
        return _wait(states, device)

    return once


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
