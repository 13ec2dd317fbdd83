"""``chunk="auto"``: as many tokens at once as the memory that is free now has room for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch

from mcr_lens.host import free_memory
from mcr_lens.models.backend import Model, as_module
from mcr_lens.models.cached import cache_fault
from mcr_lens.models.info import model_facts
from mcr_lens.planning.memory import Memory, memory_needed
from mcr_lens.planning.settings import CHUNKS, batches_of
from mcr_lens.planning.shape import ModelShape, loaded_shape

__all__ = ["Sharing", "auto_chunk"]

# Of what is free. Other programs and observers want memory, too, and chunks cost little time: so half.
_SHARE = 0.5


@dataclass(frozen=True)
class Sharing:
    """How many processes count on the same free memory: each takes its part of it.

    Attributes:
        host: on a machine, this one included.
        device: on an accelerator.
    """

    host: int = 1
    device: int = 1

    @contextlib.contextmanager
    def of_memory(self) -> Iterator[None]:
        """What ``auto_chunk`` counts with for the time of the block."""
        token = _SHARING.set(self)
        try:
            yield
        finally:
            _SHARING.reset(token)


_ALONE = Sharing()
_SHARING: ContextVar[Sharing] = ContextVar("sharing", default=_ALONE)


def auto_chunk(
    model: Model, lengths: Sequence[int], batch_size: int | Literal["auto"] = "auto"
) -> int | None:
    """The chunk that ``profile(..., chunk="auto")`` takes now: ``None`` for whole prompts where they fit.

    Else the largest of 4096, 2048, ... 128 tokens whose memory, as ``memory_needed`` counts it without the
    weights, which are there, is at most half of what is free on the model's devices and the host. Where none
    fits it is the smallest. A model that cannot be fed in chunks gets whole prompts. Where workers of a sweep
    share a machine, each counts with its part (``Sharing``).

    Args:
        model: from ``load_model``.
        lengths: tokens of every prompt.
        batch_size: prompts a batch, as ``profile`` takes it.

    Example:
        >>> import mcr_lens as mcr
        >>> mcr.planning.auto_chunk(mcr.load_model("tiny"), [128, 64]) is None
        True
    """
    devices = _devices(model)
    sharing = _SHARING.get()
    free_device = min((free_memory(device) for device in devices), default=0) // sharing.device
    free_host = free_memory(torch.device("cpu")) // sharing.host

    def fits(chunk: int | None) -> bool:
        needed = _needed(shape, lengths, batch_size, chunk, facts.dtype, facts.backend)
        return all(_has_room(memory, len(devices), free_device, free_host) for memory in needed)

    facts, shape = model_facts(model), loaded_shape(model)
    if fits(None):
        return None
    smaller = [chunk for chunk in CHUNKS if chunk < max(lengths)]
    if not smaller or cache_fault(model) is not None:
        return None
    return next(filter(fits, smaller), smaller[-1])


def _needed(
    shape: ModelShape,
    lengths: Sequence[int],
    batch_size: int | Literal["auto"],
    chunk: int | None,
    dtype: str,
    backend: Literal["hooked_transformer", "bridge"],
) -> list[Memory]:
    """Of every kind of batch."""
    return [
        memory_needed(
            shape,
            batch=batch,
            longest=longest,
            n_prompts=len(lengths),
            chunk=chunk,
            dtype=dtype,
            backend=backend,
        )
        for batch, longest in set(batches_of(lengths, batch_size))
    ]


def _has_room(memory: Memory, n_devices: int, free_device: int, free_host: int) -> bool:
    if not n_devices:
        return memory.work + memory.host <= _SHARE * free_host
    # Caches and states lie with the layers that they are of.
    each = (memory.work - memory.moment) / n_devices + memory.moment
    return each <= _SHARE * free_device and memory.host <= _SHARE * free_host


def _devices(model: Model) -> list[torch.device]:
    """The CUDA devices that the model runs on; weights that are offloaded are elsewhere."""
    used = {parameter.device for parameter in as_module(model).parameters()}
    used.add(torch.device(model.cfg.device))
    indices = {torch.cuda.current_device() if d.index is None else d.index for d in used if d.type == "cuda"}
    return [torch.device("cuda", index) for index in sorted(indices)]
