"""The bundled model on trial: what a layer takes besides its products, under the observers of a profile."""

from __future__ import annotations

import functools
import time
from typing import NamedTuple

import numpy as np
import torch

from mcr_lens.hooks.context import BatchContext, running
from mcr_lens.hooks.observers.attention import AttentionObserver
from mcr_lens.hooks.observers.residual import ResidualObserver
from mcr_lens.hooks.observers.writes import WriteObserver
from mcr_lens.models.backend import Backend, Hook, Model, run
from mcr_lens.models.load import load_model
from mcr_lens.planning.shape import ModelShape, model_shape

__all__ = ["Passing", "passing_seconds"]

# (prompts, tokens): one so small that only calls count, one of many tokens, one of large patterns.
_CALLS, _TOKENS, _PATTERNS = (1, 8), (64, 32), (8, 512)

# Seconds after which no further pass is begun.
_PATIENCE = 2.0


class Passing(NamedTuple):
    """Seconds a layer takes: for a block of tokens, for an element of its stream, for one of its pattern."""

    call: float
    activation: float
    pattern: float


def passing_seconds(
    backend: Backend, dtype: str, device: str, flops: float, *, only_calls: bool = False
) -> Passing:
    """Run the bundled model on three batches; three times tell three costs.

    Spectra, and what else is done to the residual stream, are measured elsewhere at their own size.

    Args:
        flops: operations a second of matrix products, which are taken off.
        only_calls: leave the other two costs 0.
    """
    shape = model_shape("tiny")
    call, *larger = _layer_seconds(backend, dtype, device, only_calls, torch.get_num_threads())
    if only_calls:
        return Passing(call, 0.0, 0.0)
    elements, seconds = [], []
    for (batch, longest), taken in zip((_TOKENS, _PATTERNS), larger, strict=True):
        seconds.append(taken - call - _operations(shape, batch, longest) / flops)
        elements.append((batch * longest * shape.d_model, shape.n_heads * batch * longest**2))
    activation, pattern = np.linalg.solve(np.array(elements, dtype=float), np.array(seconds))
    return Passing(call, max(0.0, float(activation)), max(0.0, float(pattern)))


@functools.cache
def _layer_seconds(
    backend: Backend, dtype: str, device: str, only_calls: bool, threads: int
) -> tuple[float, ...]:
    """Of a layer, on the batch of calls and then on the others; once a process for each number of threads."""
    model = load_model("tiny", backend=backend, dtype=dtype, device=device)
    readers = [WriteObserver(model), AttentionObserver(model)]
    all_hooks = [hook for reader in (ResidualObserver(model), *readers) for hook in reader.hooks()]
    taken = [_seconds(model, all_hooks, *_CALLS)]
    if not only_calls:
        hooks = [hook for reader in readers for hook in reader.hooks()]
        taken += [_seconds(model, hooks, *sizes) for sizes in (_TOKENS, _PATTERNS)]
    return tuple(seconds / model.cfg.n_layers for seconds in taken)


def _operations(shape: ModelShape, batch: int, longest: int) -> float:
    """Of one layer's products, the scores and what is gathered by them included."""
    tokens = batch * longest
    return 2.0 * tokens * shape.block_parameters / shape.n_layers + (
        4.0 * shape.n_heads * shape.d_head * tokens * longest
    )


def _seconds(model: Model, hooks: list[Hook], batch: int, longest: int) -> float:
    """The fastest of three passes after one that warms up: what disturbs a trial only adds.

    On a machine that is busy with other work one has to do.
    """
    tokens = torch.randint(3, 500, (batch, longest), device=model.cfg.device)
    context = BatchContext(0, torch.full((batch,), longest), tuple(range(batch)), tokens.cpu())
    runs: list[float] = []
    while len(runs) < 2 or (len(runs) < 4 and sum(runs) < _PATIENCE):
        start = time.perf_counter()
        with running(context):
            run(model, tokens, hooks, blocks_only=True)
        if model.cfg.device != "cpu" and torch.cuda.is_available():
            torch.cuda.synchronize()
        runs.append(time.perf_counter() - start)
    return min(runs[1:])
