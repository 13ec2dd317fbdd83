"""Which rows of a block belong to a prompt: lengths, offsets and the sink position."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mcr_lens.errors import InputError

__all__ = ["full_lengths", "real_rows", "rest_rows", "row_positions"]


def full_lengths(
    batch: int, pos: int, lengths: Int[Tensor, "batch"] | None, sink_position: int = 0
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
    if not 0 <= sink_position < shortest:
        raise InputError(
            f"sink position {sink_position} must lie in 0..{shortest - 1}, inside the shortest prompt"
        )
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
    lengths: Int[Tensor, "batch"], rows: int, offset: int, sink_position: int, device: torch.device
) -> Bool[Tensor, "batch rows"]:
    """True where a row of the block is a real token other than the sink."""
    is_rest = row_positions(rows, offset, device) != sink_position
    return real_rows(lengths, rows, offset, device) & is_rest
