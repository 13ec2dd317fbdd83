"""``plan``: does a profile fit? Answered from the model's configuration; no weight is loaded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from transformers import PreTrainedConfig

from mcr_lens.errors import InputError
from mcr_lens.host import cuda_devices, free_memory, host_memory, in_words, number_of_bytes
from mcr_lens.models.backend import check_backend
from mcr_lens.models.hooked_transformer import default_backend
from mcr_lens.models.memory import CHUNKS, Memory, batches_of, memory_needed
from mcr_lens.models.model_sizes import ModelSizes, read_sizes
from mcr_lens.validate import check_count, is_number, is_whole

__all__ = ["Plan", "Setting", "plan"]

# Python and the libraries, in the host's memory, measured (`benchmarks/plan_check.py`); the context of an
# accelerator, in its own, assumed.
LIBRARIES, CONTEXT = 600 * 10**6, 600 * 10**6
# Freed blocks that glibc keeps for later, up to 32 MB each: what its settings were measured to make.
ALLOCATOR = 250 * 10**6
_BASE = LIBRARIES + ALLOCATOR
# Free memory is never all usable: allocators leave gaps.
USABLE = 0.92
_DTYPES = ("float32", "bfloat16", "float16")


class Room(NamedTuple):
    """Number of accelerators, and bytes of each and of the host."""

    devices: int
    device: int
    host: int


@dataclass(frozen=True)
class Setting:
    """One dtype, with the first batch size and chunk that fit, or the smallest where none does.

    Attributes:
        batch_size: ``"auto"`` or a number of prompts; ``batch`` is what the largest batch holds.
        device_bytes: on each accelerator; 0 on the CPU.
        host_bytes: in the host's memory, while it runs.
        loading_bytes: in the host's memory, while the weights are loaded: they come to the host first, and
            with several devices go on to them one by one.
        shortage: what is short: ``"device"``, ``"host"``, both, or nothing where it fits.
    """

    dtype: str
    batch_size: int | Literal["auto"]
    batch: int
    chunk: int | None
    device_bytes: int
    host_bytes: int
    loading_bytes: int
    memory: Memory
    shortage: str


@dataclass(frozen=True)
class Plan:
    """What memory a profile needs, and what there is.

    Attributes:
        headline: model and prompts in one line.
        settings: one a dtype, fitting or not.
        sizes: of the model.
        room: the memory at hand.
        note: what is to be said of the weights.
    """

    headline: str
    settings: tuple[Setting, ...]
    sizes: ModelSizes
    room: Room
    note: str = ""

    @property
    def best(self) -> Setting | None:
        """The most exact dtype that fits."""
        return next((setting for setting in self.settings if not setting.shortage), None)

    def table(self) -> pd.DataFrame:
        """A row a dtype: whether it fits, prompts a batch, tokens a chunk, memory needed."""
        rows = {
            setting.dtype: {
                "fits": f"no: {setting.shortage}" if setting.shortage else "yes",
                "batch": f"{setting.batch:,}",
                "chunk": f"{setting.chunk:,}" if setting.chunk else "whole prompts",
                "each device": in_words(setting.device_bytes) if self.room.devices else "none",
                "host": in_words(max(setting.host_bytes, setting.loading_bytes)),
            }
            for setting in self.settings
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("dtype")

    def parts(self) -> pd.DataFrame:
        """Where the memory goes in the best setting, or in the last where none fits.

        Of the moments, which pass, only the largest counts.
        """
        setting = self.best or self.settings[-1]
        sizes = setting.memory.parts() | {"host: weights while loading": setting.loading_bytes - _BASE}
        words = {part: in_words(size) for part, size in sizes.items() if size}
        return pd.DataFrame({"size": words}).rename_axis("part")

    def sentences(self) -> list[str]:
        """What there is to say beside the table."""
        n = self.room.devices
        devices = f"{n} x {in_words(self.room.device)}" if n else "no accelerator"
        sentences = [
            f"Memory: {devices}, {in_words(self.room.host)} on the host; {1 - USABLE:.0%} of each is left "
            "free. Weights come to the host first: its memory is the larger of loading and running.",
            "Nothing fits: use fewer or shorter prompts, a smaller dtype, more memory, or "
            "mcr_lens.models.offload, which keeps one block at a time on a device.",
        ]
        if best := self.best:
            load = f'dtype="{best.dtype}"' + (', device_map="auto"' if n > 1 else "")
            run = "" if best.batch_size == "auto" else f", batch_size={best.batch_size}"
            run += f", chunk={best.chunk}" if best.chunk else ""
            sentences[1] = (
                f"Take load_model(..., {load}) and profile(model, prompts{run}). The result takes about "
                f"{in_words(best.memory.result)}."
            )
        return [*sentences, self.note] if self.note else sentences

    def __repr__(self) -> str:
        return "\n- ".join([f"{self.headline}\n{self.table().to_string()}", *self.sentences()])


def plan(
    model: str | Path | PreTrainedConfig,
    lengths: Sequence[int],
    *,
    backend: Literal["auto", "hooked_transformer", "bridge"] = "auto",
    dtype: str | None = None,
    revision: str | None = None,
    devices: int | None = None,
    memory: str | None = None,
    host_memory: str | None = None,
    batch_size: int | Literal["auto"] | None = None,
    chunk: int | Literal["auto"] | None = None,
    bits: float | None = None,
) -> Plan:
    """Predict the memory of ``profile`` from a model's configuration alone; no weight is loaded.

    Args:
        model: ``"tiny"``, a name, a folder that holds at least a ``config.json``, or a configuration.
        lengths: the number of tokens of each prompt, such as ``[512] * 64`` or ``prompts.lengths``.
        backend: as in ``load_model``.
        dtype: only this one; else float32 and bfloat16 are both tried.
        devices: number of accelerators, over which the layers are spread evenly; 0 for the CPU. What is
            here if left out, one where ``memory`` is given.
        memory: of each accelerator, such as ``"80GB"``; what is free here if left out.
        host_memory: such as ``"512GB"``; what is free here if left out.
        batch_size: this one; else ``"auto"`` is tried first, then 1.
        chunk: this one; else whole prompts are tried first, then chunks.
        bits: bits a weight of the blocks, for a quantised model that you will load yourself.

    Raises:
        InputError: for a model without a configuration, or a size or number that cannot be.

    Example:
        >>> import mcr_lens as mcr
        >>> plan = mcr.models.plan("tiny", [128] * 64, devices=0, host_memory="8GB")
        >>> plan.best.dtype, plan.best.batch
        ('float32', 32)
    """
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"dtype {dtype!r}: use one of {', '.join(_DTYPES)}")
    check_backend(backend)
    if bits is not None and not (is_number(bits) and 1 <= bits <= 32):
        raise InputError(f"bits {bits!r}: a weight takes 1 to 32")
    for option, value in (("batch_size", batch_size), ("chunk", chunk)):
        if value not in (None, "auto"):
            check_count(option, value)
    tokens = list(lengths) if isinstance(lengths, Iterable) else []
    if not tokens or not all(is_whole(length, 2) for length in tokens):
        raise InputError(
            "lengths: give the tokens of each prompt, at least 2: [512] * 64, or prompts.lengths"
        )
    room = _room(devices, memory, host_memory)
    name, config, sizes = read_sizes(model, revision)
    if (longest := max(tokens)) > sizes.n_ctx:
        raise InputError(
            f"a prompt has {longest} tokens, the context of {name} is {sizes.n_ctx}: "
            f"use max_tokens={sizes.n_ctx}"
        )
    # Chunks only where smaller batches do not do; whole prompts first.
    batch_sizes: list[Any] = ["auto", 1] if batch_size is None else [batch_size]
    chunks = [None, *(rows for rows in CHUNKS if rows < longest)] if chunk in (None, "auto") else [chunk]
    ways = [*((size, chunks[0]) for size in batch_sizes), *((batch_sizes[-1], rows) for rows in chunks[1:])]
    if room.devices > 1:  # which only the bridge is spread over
        backend = "bridge"
    elif backend == "auto":
        backend = default_backend(name)
    kinds = {"backend": backend, "bits": bits}
    settings = []
    for each in [dtype] if dtype else _DTYPES[:2]:
        tries = [_setting(sizes, tokens, room, *way, dtype=each, **kinds) for way in ways]
        settings.append(next((setting for setting in tries if not setting.shortage), tries[-1]))
    note = ""
    if getattr(config, "quantization_config", None) and bits is None:
        note = (
            "The configuration is of quantised weights, planned here in full: bits (--bits) plans them as "
            "they are stored, loaded by you and handed in."
        )
    n = sizes.parameters
    parameters = f"{n / 1e9:.3g} billion" if n >= 999.5e6 else f"{n / 1e6:.3g} million"
    headline = (
        f"{name}: {parameters} parameters, {sizes.n_layers} layers x {sizes.n_heads} heads, d_model "
        f"{sizes.d_model}; {len(tokens)} prompts of up to {longest} tokens, {sum(tokens):,} in all"
    )
    return Plan(headline, tuple(settings), sizes, room, note)


def _room(devices: int | None, memory: str | None, host: str | None) -> Room:
    on_host = host_memory() if host is None else number_of_bytes(host, "host memory")
    if devices is not None:
        check_count("devices", devices, 0)
    if memory is not None:
        return Room(1 if devices is None else devices, number_of_bytes(memory), on_host)
    here = cuda_devices()[:devices]
    if devices is not None and len(here) < devices:
        raise InputError(
            f"devices {devices}: there are {len(here)} here; give the memory of each, such as 80GB"
        )
    return Room(len(here), min(map(free_memory, here), default=0), on_host)


def _setting(
    sizes: ModelSizes,
    tokens: Sequence[int],
    room: Room,
    batch_size: int | Literal["auto"],
    chunk: int | None,
    **kinds: Any,
) -> Setting:
    batch = max(count for count, _ in batches_of(tokens, batch_size))
    prompts = {"batch": batch, "longest": max(tokens), "n_prompts": len(tokens)}
    memory = memory_needed(sizes, **prompts, chunk=chunk, **kinds)
    device, host, loading = 0, _BASE + memory.host, _BASE + memory.loading
    if not room.devices:
        host += memory.weights + memory.work
    elif room.devices == 1:
        device = CONTEXT + memory.weights + memory.work
    else:
        # Blocks are not cut: a device may have one more than its share. Caches and states lie with them.
        block = memory.weights * sizes.block_parameters // (sizes.parameters * sizes.n_layers)
        outside_blocks = memory.weights * sizes.other_parameters // sizes.parameters
        share = (memory.weights + memory.work - memory.moment) // room.devices
        device = CONTEXT + share + block + memory.moment
        loading = _BASE + 2 * max(block, outside_blocks)
    short = ["device"] if device > USABLE * room.device else []
    short += ["host"] if max(host, loading) > USABLE * room.host else []
    return Setting(
        kinds["dtype"], batch_size, batch, chunk, device, host, loading, memory, " and ".join(short)
    )
