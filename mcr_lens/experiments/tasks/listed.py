"""Depths, labels and groups as they are given: told in one line where they cannot be listed."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from mcr_lens.errors import InputError

__all__ = ["listed_depths", "listed_labels"]


def listed_depths(depths: Sequence[int] | None) -> list[Any] | None:
    """Depths as a list; which of them exist is for others to say.

    Raises:
        InputError: for one depth that is not in a list.
    """
    if depths is None:
        return None
    if isinstance(depths, str) or not _is_iterable(depths):
        raise InputError(f"depths {depths!r}: give them in a list, such as [0, 4], or None for all")
    return list(depths)


def listed_labels(labels: Iterable[Hashable], what: str = "label") -> list[Any]:
    """Labels (or groups) of prompts as Python's own values.

    Raises:
        InputError: unless they are several values that can be told apart, such as numbers and texts.
    """
    if isinstance(labels, str) or not _is_iterable(labels):
        raise InputError(f"{what}s {labels!r}: give a list, one {what} a prompt")
    listed = [label.item() if isinstance(label, np.generic) else label for label in labels]
    for number, label in enumerate(listed):
        try:
            hash(label)
        except TypeError as error:
            raise InputError(
                f"{what} {number} is a {type(label).__name__}: use a number or a text a prompt"
            ) from error
    return listed


def _is_iterable(given: Any) -> bool:
    """Also for arrays of no dimension, which only say so when they are asked."""
    try:
        iter(given)
    except TypeError:
        return False
    return True
