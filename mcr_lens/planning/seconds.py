"""Seconds: operations and elements counted from the shapes, over what a machine does of them a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcr_lens.models.backend import Backend
from mcr_lens.planning.shape import ModelShape
from mcr_lens.planning.speed import SpectrumSpeed, Speed

__all__ = ["Seconds", "seconds_needed"]


@dataclass(frozen=True)
class Seconds:
    """An estimate, part by part.

    Attributes:
        overhead: of hooks and small operations, however short the prompts.
        spectra: of all threads together; ``saved`` is how much of it is not waited for.
    """

    overhead: float
    forward: float
    patterns: float
    residuals: float
    spectra: float
    saved: float = 0.0
    transfer: float = 0.0

    @property
    def total(self) -> float:
        """Sum of the parts, less what is not waited for."""
        passing = self.overhead + self.forward + self.patterns + self.residuals + self.transfer
        return passing + self.spectra - self.saved

    @property
    def between(self) -> tuple[float, float]:
        """From 0.6 to 1.7 times the total: wider than the ratios of the runs in ``docs/scale.md``."""
        return 0.6 * self.total, 1.7 * self.total


def seconds_needed(
    shape: ModelShape,
    batches: Sequence[tuple[int, int]],
    lengths: Sequence[int],
    speed: Speed,
    spectrum: SpectrumSpeed,
    *,
    backend: Backend,
    chunk: int | None = None,
    on_device: bool = False,
    moved: float = 0.0,
) -> Seconds:
    """Time of one pass over ``batches`` of ``(prompts, tokens of the longest)``.

    Args:
        chunk: tokens a chunk; each sees the keys so far, so patterns come to about half.
        on_device: whether the model runs on an accelerator, and leaves the host to the spectra.
        moved: seconds that offloaded weights take to be brought in, in all.
    """
    tokens = sum(size * longest for size, longest in batches)
    blocks = sum(len(_ends(longest, chunk)) for _, longest in batches)
    pairs = sum(size * _pairs(longest, chunk) for size, longest in batches)
    heads = shape.n_layers * shape.n_heads
    attention = 4.0 * heads * shape.d_head * pairs
    # HookedTransformer stops after the last block.
    parameters = shape.active_parameters - (0 if backend == "bridge" else shape.d_model * shape.d_vocab)
    products = (2.0 * parameters * tokens + attention) / speed.flops
    cubes = sum(min(length, shape.d_model) ** 3 for length in lengths)
    grams = sum(2.0 * length * shape.d_model * min(length, shape.d_model) for length in lengths)
    parts = {
        "overhead": blocks * shape.n_layers * speed.call,
        "forward": products + shape.n_layers * tokens * shape.d_model * speed.activation,
        "patterns": heads * pairs * speed.pattern,
        "residuals": (shape.n_layers + 1) * tokens * shape.d_model * speed.residual,
        "transfer": moved,
    }
    spectra = (shape.n_layers + 1) * (cubes * spectrum.cube + grams / spectrum.gram)
    saved = _saved(sum(parts.values()), spectra, spectrum.threads, on_device)
    return Seconds(**parts, spectra=spectra, saved=saved)


def _saved(others: float, spectra: float, threads: int, on_device: bool) -> float:
    """How much of the spectra's time is saved by threads, which solve a prompt each.

    An accelerator goes on meanwhile. On the host the model waits, since it uses every core itself.
    """
    solving = spectra / threads
    return others + spectra - (max(others, solving) if on_device else others + solving)


def _ends(longest: int, chunk: int | None) -> list[int]:
    """Where each block of a prompt ends."""
    step = longest if chunk is None else min(chunk, longest)
    return [min(start + step, longest) for start in range(0, longest, step)]


def _pairs(longest: int, chunk: int | None) -> int:
    """Queries times keys, over the blocks of one prompt."""
    ends = _ends(longest, chunk)
    return sum((end - start) * end for start, end in zip([0, *ends], ends, strict=False))
