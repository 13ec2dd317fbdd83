"""What there is to doubt about a model that was measured, in the same words wherever it is shown.

A result holds it in its attributes: the failed checks, lengths that the self-check did not reach, and what
was done to the weights. Light: results open without torch.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["DoubtWarning", "doubts", "warn_of_doubts"]


class DoubtWarning(UserWarning):
    """One of ``doubts``, as a warning."""


def doubts(attributes: Mapping[str, Any], longest: int | None = None) -> list[str]:
    """One sentence for each doubt about the model of a result.

    Args:
        attributes: a result's, or ``ModelFacts.attributes()``.
        longest: tokens of the longest prompt; ``None``: boundaries beyond the self-check are not spoken of.
    """
    return list(_doubts(attributes, longest or 0))


def warn_of_doubts(sentences: list[str]) -> None:
    """Each sentence as a ``DoubtWarning`` of the caller's caller."""
    for sentence in sentences:
        warnings.warn(sentence, DoubtWarning, stacklevel=3)


def _doubts(attributes: Mapping[str, Any], longest: int) -> Iterator[str]:
    for check, why in (attributes.get("failed_checks") or {}).items():
        yield f"The model failed a check ({check}): {why}."
    for boundary in attributes.get("unchecked_lengths") or ():
        if longest > boundary:
            yield (
                f"A prompt has {longest:,} tokens: the model computes otherwise beyond {boundary:,} (a "
                "window, or other rotary factors), further than the self-check ran."
            )
    processing = attributes.get("processing") or "raw"
    if processing != "raw":
        yield (
            f"The weights were processed before they were measured ({processing}), so norms and what follows "
            "from them need not be the raw model's; load_model gives raw weights."
        )
