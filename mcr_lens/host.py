"""The memory of this machine, and sizes as people say them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["free_memory", "host_memory", "in_words", "swap_space"]

_CGROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take: of a CUDA device, or of the host for all others.

    What torch's allocator has reserved on a device and does not use counts as free. Of the host it is what is
    free within the control group's limit.
    """
    if device.type != "cuda":
        return host_memory()
    import torch  # here, so that a saved result can be read without it

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def host_memory() -> int:
    """Free memory of the host in bytes, or of the container that the process lives in."""
    # No Linux: all of it is the best there is to say.
    free = _meminfo("MemAvailable") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit, used = (_CGROUP / name for name in ("memory.max", "memory.current"))
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no control group, or "max"
        pass
    return free


def swap_space() -> int:
    """Free swap space in bytes, as far as the system tells."""
    return _meminfo("SwapFree") or 0


def in_words(size: float) -> str:
    """A size as people say it, in powers of ten.

    Example:
        >>> in_words(141107412992), in_words(52e6)
        ('141 GB', '52 MB')
    """
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}" if size < 999.5 * unit else f"{size / unit:.0f} {name}"
    return f"{size / 1e3:.0f} kB"


def _meminfo(name: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
