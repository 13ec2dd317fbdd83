"""Warnings that say what they are about, where one call measures many things."""

import contextlib
import warnings
from collections.abc import Iterator

from mcr_lens.not_finite import NotFiniteWarning

__all__ = ["warnings_about"]


@contextlib.contextmanager
def warnings_about(what: str) -> Iterator[None]:
    """Around one of many runs: warnings from inside begin with its name, and come when it is over.

    What the filters that are set would turn into an error, or hide, stays an error or hidden.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught, warnings_about("arm clamp"):
        ...     warnings.warn("Inf in prompt 3", RuntimeWarning)
        >>> str(caught[0].message)
        'arm clamp: Inf in prompt 3'
    """
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield
    finally:
        for each in caught:
            # Other kinds may be made of more than a text.
            ours = each.category in (RuntimeWarning, UserWarning, NotFiniteWarning)
            message = f"{what}: {each.message}" if ours else each.message
            warnings.warn_explicit(message, each.category, each.filename, each.lineno)
