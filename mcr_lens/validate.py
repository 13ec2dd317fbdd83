"""Checks of arguments, one function for each kind; each raises ``InputError`` with the way out."""

import difflib
import operator
import os
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex, cast

from mcr_lens.errors import InputError

__all__ = [
    "check_count",
    "check_fraction",
    "check_indices",
    "check_positive",
    "check_resampling",
    "did_you_mean",
    "is_number",
    "is_whole",
    "plain_path",
]


def is_whole(value: object, least: int | None = None, below: int | None = None) -> bool:
    """Whether a value is a whole number, no smaller than ``least`` and smaller than ``below``.

    Example:
        >>> is_whole(3, least=1), is_whole(3.0), is_whole(True), is_whole(3, below=3)
        (True, False, False, False)
    """
    if isinstance(value, bool):
        return False
    try:
        number = operator.index(cast("SupportsIndex", value))
    except (TypeError, ValueError):  # no number, an array of several, or of other numbers
        return False
    return (least is None or number >= least) and (below is None or number < below)


def is_number(value: object) -> bool:
    """Whether a value is a real number, infinite ones and NaN among them.

    Example:
        >>> is_number(3), is_number(0.5), is_number(True), is_number("3")
        (True, True, False, False)
    """
    if isinstance(value, Real):
        return not isinstance(value, bool)
    # An array or a tensor of no dimensions.
    if getattr(value, "shape", None) != () or "bool" in str(getattr(value, "dtype", "")):
        return False
    try:
        float(cast("SupportsFloat", value))
    except (TypeError, ValueError):
        return False
    return True


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'tiny'?"`` for a misspelt name, nothing where no name is near.

    Example:
        >>> did_you_mean("tyni", ["tiny", "gpt2"])
        "; did you mean 'tiny'?"
    """
    near = [each for each in difflib.get_close_matches(name, list(names), n=2, cutoff=0.5) if each != name]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def check_count(name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Raise ``InputError`` unless the value is a whole number of ``least``..``most``."""
    if not is_whole(value, least, None if most is None else most + 1):
        span = f"from {least}" if most is None else f"of {least}..{most}"
        raise InputError(f"{name} {value!r}: use a whole number {span}")


def check_fraction(name: str, value: Any, example: float) -> None:
    """Raise ``InputError`` unless the value is a number between 0 and 1, both excluded."""
    if not is_number(value) or not 0 < value < 1:
        raise InputError(f"{name} {value!r}: use a number between 0 and 1, such as {example:g}")


def check_positive(name: str, value: Any, example: float) -> None:
    """Raise ``InputError`` unless the value is a finite number above 0."""
    if not is_number(value) or not 0 < value < float("inf"):
        raise InputError(f"{name} {value!r}: use a number above 0, such as {example:g}")


def check_resampling(confidence: float, n_resamples: int, seed: int) -> None:
    """Raise ``InputError`` unless the options of a resampling method are in range."""
    check_fraction("confidence", confidence, 0.95)
    check_count("n_resamples", n_resamples)
    check_count("seed", seed, 0)


def check_indices(
    name: str, values: int | Iterable[int], size: int | None = None, *, from_end: bool = False
) -> tuple[int, ...]:
    """Layers, depths, heads or positions as a tuple, from one or several; each below ``size``, and once.

    Args:
        name: plural, such as ``"layers"``; the error message begins with it.
        size: how many there are, where it is known.
        from_end: whether negative numbers count from the last one.

    Example:
        >>> check_indices("layers", 2, 6), check_indices("positions", [0, -1], 6, from_end=True)
        ((2,), (0, -1))
    """
    several = isinstance(values, Iterable) and not isinstance(values, str | bytes)
    items: list[Any] = [*values] if several else [values]  # type: ignore[misc]
    least = 0 if not from_end else None if size is None else -size
    valid = items and all(is_whole(x, least, size) for x in items)
    indices = tuple(int(x) for x in items) if valid else ()
    if not valid or len({*indices}) < len(indices):
        span = "whole numbers from 0" if size is None else f"0..{size - 1}"
        last = ", or -1 for the last" if from_end else ""
        raise InputError(f"{name} {values!r}: use one or several of {span}{last}, each once")
    return indices


def plain_path(path: str | Path) -> Path:
    """A path with the user's home in the place of ``~``; no such home leaves it as it is.

    Raises:
        InputError: for what is no path.
    """
    if not isinstance(path, str | os.PathLike) or "\0" in os.fspath(path):
        raise InputError(f"{path!r}: not a path; give the name of a file or folder, such as 'run.nc'")
    return Path(os.path.expanduser(path))
