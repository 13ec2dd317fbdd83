"""Which rows of a block belong to a prompt: lengths, offsets and the sink positions."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.validate import is_whole

__all__ = [
    "MAX_SINKS",
    "SinkPositions",
    "full_lengths",
    "real_rows",
    "rest_rows",
    "row_positions",
    "sink_set",
]

# One position, or several, the primary sink first.
SinkPositions = int | Sequence[int]

# Models with more massive tokens than this are not known.
MAX_SINKS = 4


def sink_set(sink_position: SinkPositions) -> tuple[int, ...]:
    """The positions of the sinks, the primary first.

    Raises:
        InputError: for anything but one to four different positions.
    """
    positions = tuple(sink_position) if isinstance(sink_position, Sequence) else (sink_position,)
    whole = all(is_whole(position, 0) for position in positions)
    if not whole or not 1 <= len(set(positions)) == len(positions) <= MAX_SINKS:
        raise InputError(
            f"sink_position {sink_position!r}: use one position from 0, or a list of up to {MAX_SINKS} "
            "different ones"
        )
    return positions


def full_lengths(
    batch: int, pos: int, lengths: Int[Tensor, "batch"] | None, sink_position: SinkPositions = 0
) -> Int[Tensor, "batch"]:
    """Check ``lengths`` against a ``(batch, pos)`` block; ``None`` means that every row is real.

    Raises:
        InputError: when a length is not in ``1..pos`` or the sink position is not in every prompt.
    """
    if lengths is None:
        lengths = torch.full((batch,), pos)
    lengths = torch.as_tensor(lengths).to(device="cpu", dtype=torch.int64)
    if tuple(lengths.shape) != (batch,):
        raise InputError(f"lengths has shape {tuple(lengths.shape)}; give one per prompt: ({batch},)")
    if batch and not (1 <= int(lengths.min()) and int(lengths.max()) <= pos):
        raise InputError(f"lengths {lengths.tolist()} must lie in 1..{pos}, the rows of the block")
    shortest = int(lengths.min()) if batch else pos
    if (outside := max(sink_set(sink_position))) >= shortest:
        raise InputError(f"sink position {outside} must lie in 0..{shortest - 1}, inside the shortest prompt")
    return lengths


def row_positions(rows: int, offset: int, device: torch.device) -> Int[Tensor, "rows"]:
    """Positions in the prompt of the ``rows`` rows of a block that starts at ``offset``."""
    return torch.arange(offset, offset + rows, device=device)


def real_rows(
    lengths: Int[Tensor, "batch"], rows: int, offset: int, device: torch.device
) -> Bool[Tensor, "batch rows"]:
    """True where a row of the block is a real token rather than right padding."""
    return row_positions(rows, offset, device) < lengths.to(device)[:, None]


def rest_rows(
    lengths: Int[Tensor, "batch"], rows: int, offset: int, sink_position: SinkPositions, device: torch.device
) -> Bool[Tensor, "batch rows"]:
    """True where a row of the block is a real token other than the sinks."""
    is_rest, positions = real_rows(lengths, rows, offset, device), row_positions(rows, offset, device)
    for position in sink_set(sink_position):
        is_rest = is_rest & (positions != position)
    return is_rest
