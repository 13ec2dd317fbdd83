"""The memory at hand: of this machine, or of one that is told of."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from mcr_lens.errors import InputError
from mcr_lens.host import free_memory

__all__ = ["Machine", "from_to", "number_of_bytes", "three_digits"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Machine:
    """Bytes that a run may take.

    Attributes:
        devices: of each accelerator; empty where the model runs on the CPU.
        host: the host's memory.
    """

    devices: tuple[int, ...]
    host: int

    @classmethod
    def here(cls) -> Machine:
        """What is free now: of every CUDA device, and of the host, within its control group's limit."""
        devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        return cls(tuple(map(free_memory, devices)), free_memory(torch.device("cpu")))

    @classmethod
    def told(cls, memory: str | None, host_memory: str | None = None) -> Machine:
        """From words: ``"80GB"`` for one accelerator, ``"8x80GB"`` for eight, ``"cpu"`` for none.

        What is left out is what is here.

        Raises:
            InputError: for anything else.

        Example:
            >>> Machine.told("2x80GB", "1TB")
            Machine(devices=(80000000000, 80000000000), host=1000000000000)
        """
        here = cls.here()
        host = here.host if host_memory is None else number_of_bytes(host_memory, "host memory")
        if memory is None:
            return cls(here.devices, host)
        if memory == "cpu":
            return cls((), host)
        times, x, each = memory.rpartition("x") if isinstance(memory, str) else ("", "", memory)
        if x and not (times.isdecimal() and 1 <= int(times) <= 1024):
            raise InputError(f"memory {memory!r}: use 80GB, 8x80GB (eight devices) or cpu")
        return cls((number_of_bytes(each, "memory"),) * (int(times) if x else 1), host)


def number_of_bytes(text: str, what: str = "memory") -> int:
    """Bytes of a size in words.

    Raises:
        InputError: for what is no size.

    Example:
        >>> number_of_bytes("80GB"), number_of_bytes("1.5 GiB")
        (80000000000, 1610612736)
    """
    if not isinstance(text, str):
        raise InputError(f"{what} {text!r}: use a text such as '80GB'")
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, flags=re.IGNORECASE)
    size = 0.0
    if found is not None:
        unit = found[2].upper()
        if unit or not found[3]:
            size = float(found[1]) * (_BINARY if found[3] else _UNITS)[unit]
    if not 1 <= size < 1e18:
        raise InputError(f"{what} {text!r}: use a size such as 80GB or 512GiB")
    return int(size)


def three_digits(value: float) -> str:
    """A number as people read it.

    Example:
        >>> three_digits(860.0), three_digits(0.79312), three_digits(15012.3)
        ('860', '0.793', '15,012')
    """
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def from_to(low: float, high: float) -> str:
    """A span of seconds in one unit, with the two digits that an estimate may have.

    Example:
        >>> from_to(4.13, 10.4), from_to(3000, 9000), from_to(3e5, 9e5)
        ('4.1-10 s', '50-150 min', '3.5-10 days')
    """
    units = ((86400, "days", 2 * 86400), (3600, "h", 3 * 3600), (60, "min", 120), (1, "s", 0))
    unit, name = next((size, name) for size, name, least in units if high >= least)
    return f"{_two_digits(low / unit)}-{_two_digits(high / unit)} {name}"


def _two_digits(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{float(f'{value:.2g}'):,.0f}"
