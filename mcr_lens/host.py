"""The memory of this machine, and sizes as people write them. Light: torch is loaded only to ask a GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mcr_lens.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["cuda_devices", "free_memory", "host_memory", "in_words", "number_of_bytes"]

_CGROUP = Path("/sys/fs/cgroup")


def cuda_devices() -> list[torch.device]:
    """The CUDA devices of this machine."""
    import torch

    return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on a CUDA device, or on the host for any other device.

    What torch's allocator has reserved on a device and does not use counts as free.
    """
    if device.type != "cuda":
        return host_memory()
    import torch

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def host_memory() -> int:
    """Free memory of the host in bytes, or of the container that the process runs in."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no control group, or "max"
        return free
    return min(free, limit - used)


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


def number_of_bytes(text: str, name: str = "memory") -> int:
    """The bytes of a size such as ``"80GB"`` or ``"1.5 GiB"``.

    Raises:
        InputError: for anything else, a number without a unit included.

    Example:
        >>> number_of_bytes("80GB"), number_of_bytes("1.5 GiB")
        (80000000000, 1610612736)
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt])(i?)b\s*", str(text), flags=re.IGNORECASE)
    size = 0.0
    if parts is not None:
        size = float(parts[1]) * (1024 if parts[3] else 1000) ** (1 + "kmgt".index(parts[2].lower()))
    if not 1 <= size < 1e18:
        has_no_unit = re.fullmatch(r"\d+(\.\d+)?", str(text).strip())
        way_out = f"write the unit, such as {text}GB" if has_no_unit else "use a size such as 80GB or 512GiB"
        raise InputError(f"{name} {text!r}: {way_out}")
    return int(size)
