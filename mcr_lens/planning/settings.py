"""Ways to run one profile, and whether each fits: dtype, placement of the weights, batch size, chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mcr_lens.models.backend import Backend
from mcr_lens.planning.machine import Machine
from mcr_lens.planning.memory import Memory, memory_needed
from mcr_lens.planning.shape import ModelShape

__all__ = ["CHUNKS", "Setting", "batches_of", "fitting", "placements"]

# Python and the libraries, in the host's memory, measured (`benchmarks/plan_check.py`); the context of an
# accelerator, in its own, assumed.
LIBRARIES, CONTEXT = 600 * 10**6, 600 * 10**6
# Freed blocks that glibc keeps for later, up to 32 MB each: what its settings were measured to make.
ALLOCATOR = 250 * 10**6
# What is told for an accelerator is never all free, and allocators leave gaps.
USABLE = 0.92
# Tokens a chunk, the largest first.
CHUNKS = (4096, 2048, 1024, 512, 256, 128)
_BATCH_TOKENS = 4096  # the most that models.batch_cost allows


@dataclass(frozen=True)
class Setting:
    """One way to run, with the memory it takes.

    Attributes:
        placement: ``"cpu"``, ``"1 device"``, ``"N devices"`` (``device_map="auto"``), ``"offload to CPU"`` or
            ``"offload to disk"`` (``mcr_lens.offload``).
        batch_size: ``"auto"`` or a number of prompts; ``batch`` is what the largest batch holds.
        device_bytes: on each accelerator; 0 on the CPU.
        host_bytes: in the host's memory, while it runs.
        disk_bytes: in a file, for weights that are offloaded to disk.
        loading_bytes: in the host's memory, while the weights are loaded: they come to the host first, and
            with ``device_map="auto"`` go on to their devices one by one.
        why_not: what is short, empty where it fits.
    """

    dtype: str
    placement: str
    batch_size: int | str
    batch: int
    chunk: int | None
    device_bytes: int
    host_bytes: int
    disk_bytes: int
    loading_bytes: int
    memory: Memory
    why_not: str = ""

    @property
    def fits(self) -> bool:
        """Whether the memory at hand suffices."""
        return not self.why_not

    @property
    def host_peak(self) -> int:
        """What the host has to hold in all: the larger of loading and running."""
        return max(self.host_bytes, self.loading_bytes)

    @property
    def is_offloaded(self) -> bool:
        """Whether blocks are brought in when their turn comes."""
        return self.placement.startswith("offload")


def placements(machine: Machine) -> list[str]:
    """Where the weights of a model can be, the fastest first."""
    several = [f"{len(machine.devices)} devices"] if len(machine.devices) > 1 else []
    if not machine.devices:
        return ["cpu", "offload to disk"]
    return ["1 device", *several, "offload to CPU", "offload to disk", "cpu"]


def fitting(
    shape: ModelShape,
    lengths: Sequence[int],
    machine: Machine,
    *,
    dtype: str,
    placement: str,
    backend: Backend,
    batch_size: int | str | None = None,
    chunk: int | None = None,
    bits: float | None = None,
) -> Setting:
    """The first batch size and chunk that fit at one dtype and placement; where none does, the smallest.

    ``batch_size`` and ``chunk`` that are given are kept.
    """
    found = None
    for size, rows in _ways(batch_size, chunk, max(lengths)):
        batch = max(count for count, _ in batches_of(lengths, size))
        memory = memory_needed(
            shape,
            batch=batch,
            longest=max(lengths),
            n_prompts=len(lengths),
            chunk=rows,
            dtype=dtype,
            backend="bridge" if placement.endswith("devices") else backend,
            bits=bits,
        )
        found = _placed(shape, memory, machine, dtype, placement, size, batch, rows)
        if found.fits:
            return found
    assert found is not None
    return found


def batches_of(lengths: Sequence[int], batch_size: int | str) -> list[tuple[int, int]]:
    """``(prompts, tokens of the longest)`` of each batch; of ``"auto"`` the largest that there may be.

    Example:
        >>> batches_of([3000, 1000, 1000, 10], "auto")
        [(1, 3000), (3, 1000)]
    """
    order = sorted(lengths, reverse=True)
    made, start = [], 0
    while start < len(order):
        size = max(1, _BATCH_TOKENS // order[start]) if isinstance(batch_size, str) else batch_size
        made.append((len(order[start : start + size]), order[start]))
        start += size
    return made


def _ways(
    batch_size: int | str | None, chunk: int | None, longest: int
) -> Iterator[tuple[int | str, int | None]]:
    """The plainest first; chunks only where smaller batches do not do."""
    sizes: list[int | str] = ["auto", 1] if batch_size is None else [batch_size]
    if chunk is not None:
        yield from ((size, chunk) for size in sizes)
        return
    yield from ((size, None) for size in sizes)
    yield from ((sizes[-1], rows) for rows in CHUNKS if rows < longest)


def _placed(
    shape: ModelShape,
    memory: Memory,
    machine: Machine,
    dtype: str,
    placement: str,
    batch_size: int | str,
    batch: int,
    chunk: int | None,
) -> Setting:
    """Who holds what."""
    share = shape.largest_block / max(1, shape.parameters)
    block = int(memory.weights * share)
    in_blocks = int(memory.weights * shape.block_parameters / shape.parameters)
    base = LIBRARIES + ALLOCATOR
    device, host, disk = 0, base + memory.host, 0
    loading = base + memory.loading
    if placement == "cpu":
        host += memory.weights + memory.work
    elif placement == "1 device":
        device = CONTEXT + memory.weights + memory.work
    elif placement.endswith("devices"):
        # Blocks are not cut: a device may have one more than its share. Caches and states lie with them.
        n = len(machine.devices)
        device = CONTEXT + (memory.weights + memory.work - memory.moment) // n + block + memory.moment
        loading = base + 2 * max(block, memory.weights - in_blocks)
    else:
        near = memory.weights - in_blocks + block + memory.work
        disk = in_blocks if placement == "offload to disk" else 0
        host += 2 * block if disk else in_blocks
        if machine.devices:
            device = CONTEXT + near
        else:
            host += near
    setting = Setting(dtype, placement, batch_size, batch, chunk, device, host, disk, loading, memory)
    return _judged(setting, machine)


def _judged(setting: Setting, machine: Machine) -> Setting:
    short = []
    if setting.device_bytes and setting.device_bytes > USABLE * min(machine.devices):
        short.append("device")
    if setting.host_peak > USABLE * machine.host:
        short.append("host")
    return replace(setting, why_not=" and ".join(short))
