"""Inf and NaN: which prompts have them and where they begin, so that no mean takes them in."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcr_lens.metrics.rows import real_rows

__all__ = ["first_broken_score", "first_lost_row", "first_not_finite", "without"]


def first_not_finite(block: Tensor, lengths: Int[Tensor, "batch"], offset: int = 0) -> Int[Tensor, "batch"]:
    """First position of each prompt whose row of the block holds an Inf or a NaN; -1 where none does.

    Args:
        block: ``(batch, rows, ...)``, its first row at position ``offset``; padding does not count.

    Example:
        >>> block = torch.tensor([[[0.0], [torch.inf]], [[1.0], [torch.nan]], [[2.0], [3.0]]])
        >>> first_not_finite(block, torch.tensor([6, 5, 6]), offset=4)
        tensor([ 5, -1, -1])
    """
    # A sum is finite only where every number is. On an accelerator asking would wait for it.
    if block.device.type == "cpu" and bool(block.detach().sum(dtype=torch.float32).isfinite()):
        return torch.full((len(block),), -1)
    # The largest of a row is NaN where one is, and ten times faster to find than to ask each number.
    broken = ~block.detach().flatten(2).abs().amax(-1).isfinite()
    return _first(broken, lengths, offset)


def first_lost_row(
    pattern: Float[Tensor, "batch head query key"], lengths: Int[Tensor, "batch"], offset: int = 0
) -> Int[Tensor, "batch"]:
    """First position of each prompt at which a head attends to nothing at all; -1 where there is none.

    A HookedTransformer makes a row of NaN, of attention scores that overflowed, into a row of zeros.
    """
    return _first((pattern.detach().amax(-1) == 0).any(1), lengths, offset)


def first_broken_score(
    scores: Float[Tensor, "batch head query key"], lengths: Int[Tensor, "batch"], offset: int = 0
) -> Int[Tensor, "batch"]:
    """First position of each prompt at which a head's scores hold NaN or +Inf; -1 where there is none."""
    peak = scores.detach().amax(-1)
    return _first((peak.isnan() | (peak == torch.inf)).any(1), lengths, offset)


def without(broken: Bool[Tensor, "batch"], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values of each prompt, with NaN (-1 for integers) for the broken ones."""
    kept = {}
    for name, tensor in values.items():
        missing = torch.nan if tensor.is_floating_point() else -1
        at = broken.to(tensor.device).reshape(-1, *[1] * (tensor.ndim - 1))
        kept[name] = torch.where(at, missing, tensor)
    return kept


def _first(
    broken: Bool[Tensor, "batch rows"], lengths: Int[Tensor, "batch"], offset: int
) -> Int[Tensor, "batch"]:
    """Position of each prompt's first broken row that is no padding; -1 where there is none."""
    broken = broken & real_rows(lengths, broken.shape[1], offset, broken.device)
    return torch.where(broken.any(-1), broken.int().argmax(-1) + offset, -1)
