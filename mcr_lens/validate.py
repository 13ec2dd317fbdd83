"""Whether what was given is a number: of Python's or another library's kinds, but never True or False."""

import operator
from numbers import Real
from typing import SupportsFloat, SupportsIndex, cast

from mcr_lens.errors import InputError

__all__ = ["check_count", "is_number", "is_whole"]


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


def check_count(name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Raise ``InputError`` unless the value is a whole number of ``least``..``most``."""
    if not is_whole(value, least, None if most is None else most + 1):
        span = f"from {least}" if most is None else f"of {least}..{most}"
        raise InputError(f"{name} {value!r}: use a whole number {span}")
