"""What a position means: one of each prompt, found in the block of rows that a hook is handed."""

from collections.abc import Sequence
from numbers import Integral

import torch
from jaxtyping import Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext, is_running
from mcr_lens.hooks.sequence import is_growing

__all__ = ["Position", "check_position", "key_positions", "located"]

Position = int | Sequence[int]


def check_position(position: Position, call: str) -> None:
    """Raise ``InputError`` for anything but a whole number or a sequence of them, one a prompt."""
    single = isinstance(position, Integral)
    try:
        given = torch.as_tensor(position)
    except (TypeError, ValueError, RuntimeError):
        given = torch.empty(0)
    whole = given.dtype != torch.bool and not given.is_floating_point()
    if not whole or given.ndim != (0 if single else 1) or not given.numel():
        raise InputError(f"{call}: position {position!r}: use a whole number, or a sequence of one a prompt")


def located(
    position: Position, context: BatchContext, batch: int, rows: int, call: str
) -> tuple[Tensor, Tensor]:
    """Where a position sits in a block of rows: ``(prompts, rows)``, aligned indices, perhaps none.

    Arguments and errors as in ``key_positions``.
    """
    at = key_positions(position, context, batch, rows, call)
    lengths = context.prompt_lengths(batch, rows)
    inside = (at >= context.offset) & (at < context.offset + rows) & (at < lengths)
    (prompts,) = torch.nonzero(inside, as_tuple=True)
    return prompts, at[prompts] - context.offset


def key_positions(
    position: Position, context: BatchContext, batch: int, rows: int, call: str
) -> Int[Tensor, "batch"]:
    """A position of each prompt of the batch, counted from its start.

    Args:
        position: one for all prompts, or one a prompt; a negative one counts from the last real token.

    Raises:
        InputError: for a position that a prompt does not have.
    """
    at = _one_a_row(position, context, batch, call)
    lengths = context.prompt_lengths(batch, rows)
    from_start = torch.where(at < 0, lengths + at, at)
    # A later row of a sequence that a cache holds: its other positions were there, or will be.
    if (is_running() or context.offset == 0) and not is_growing():
        missing = (from_start < 0) | (from_start >= lengths)
        if missing.any():
            first = int(missing.nonzero()[0])
            raise InputError(
                f"{call}: position {int(at[first])} in a prompt of {int(lengths[first])} tokens: use "
                f"0..{int(lengths[first]) - 1}, or -1 for the last; where the sequence grows, as under "
                "generate, wrap the call in mcr_lens.hooks.growing()"
            )
    return from_start


def _one_a_row(position: Position, context: BatchContext, batch: int, call: str) -> Int[Tensor, "batch"]:
    if isinstance(position, Integral):
        return torch.full((batch,), int(position))
    given = torch.as_tensor(position)
    if context.prompts is None and len(given) != batch:
        raise InputError(f"{call}: {len(given)} positions for a batch of {batch}: give one a prompt")
    rows = range(batch) if context.prompts is None else context.prompts
    if len(given) <= max(rows):
        raise InputError(f"{call}: {len(given)} positions, prompt {max(rows)} has none: give one a prompt")
    return given[list(rows)]
