"""The rows of a block: which are real tokens, whose they are, and where in their prompts they stand."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mcr_lens.hooks.context import observed_context

__all__ = ["Rows"]


class Rows:
    """The rows of the block that a hook is given, ``(batch, rows, ...)``, padded on the right.

    Attributes:
        context: where the block stands.
        prompts: index of each prompt of the batch among all that are measured.
        lengths: tokens of each prompt, ``(batch,)``.
        positions: position in the prompt of each row, ``(rows,)``.
        real: which rows are tokens, not padding, ``(batch, rows)``.
        tokens: ids of the whole padded prompts, ``(batch, pos)``; ``None`` where nobody knows them.
        axis: where the rows are: 1, or 2 for attention patterns and scores.
        is_end: no prompt goes on after this block.

    Args:
        hook: the hook's second argument, which says where a plain run outside ``measure`` stands.

    Raises:
        InputError: in a plain run that is padded, or goes on from a KV cache.
    """

    def __init__(self, block: Tensor, hook: Any = None, axis: int = 1) -> None:
        batch, n_rows, device = len(block), block.shape[axis], block.device
        self.context = observed_context(hook, batch)
        self.axis = axis
        self.prompts = tuple(range(batch)) if self.context.prompts is None else self.context.prompts
        self.host_lengths = self.context.prompt_lengths(batch, n_rows).cpu()
        self.lengths = self.host_lengths.to(device)
        self.positions = torch.arange(n_rows, device=device) + self.context.offset
        self.real: Bool[Tensor, "batch rows"] = self.positions < self.lengths[:, None]
        self.tokens: Int[Tensor, "batch pos"] | None = self.context.tokens
        self.is_end = self.context.ends_with(n_rows)

    def last(self, values: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The values of each prompt's last token; NaN for a prompt that does not end in this block."""
        return self.at(values, -1)

    def at(self, values: Shaped[Tensor, "batch ..."], position: int) -> Float[Tensor, "batch ..."]:
        """The values at a position of each prompt, from its end if negative; NaN where it is elsewhere."""
        values = values.movedim(self.axis, 1)
        at = self.lengths + position if position < 0 else torch.full_like(self.lengths, position)
        rows = at - self.context.offset
        here = (at >= 0) & (at < self.lengths) & (rows >= 0) & (rows < values.shape[1])
        picked = values[torch.arange(len(values), device=at.device), rows.clamp(0, values.shape[1] - 1)]
        picked = picked.to(torch.promote_types(values.dtype, torch.float32))
        return torch.where(_spread_over(here, picked), picked, torch.nan)

    def total(self, values: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Sum over each prompt's tokens in this block, in float64."""
        return torch.where(self._real_of(values), values, 0.0).sum(self.axis, dtype=torch.float64)

    def mean(self, values: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Mean over each prompt's tokens in this block; NaN where it has none."""
        total = self.total(values)
        return total / _spread_over(self.real.sum(1), total)

    def without_padding(self, block: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "batch ..."]:
        """The block in float32 or better, with NaN in the rows that are padding."""
        block = block.to(torch.promote_types(block.dtype, torch.float32))
        has_padding = int(self.host_lengths.min()) < self.context.offset + block.shape[self.axis]
        return torch.where(self._real_of(block), block, torch.nan) if has_padding else block

    def pack(self, block: Shaped[Tensor, "batch rows *rest"]) -> Shaped[Tensor, "real *rest"]:
        """A copy of the real rows alone, one prompt after the other."""
        return block.detach().flatten(0, 1)[self._places.to(block.device)]

    def spread(self, values: Shaped[Tensor, "depth real *rest"]) -> Float[Tensor, "depth batch rows *rest"]:
        """What was computed of packed rows, back in place on the CPU; NaN (-1 for integers) elsewhere."""
        missing = torch.nan if values.is_floating_point() else -1
        whole = torch.full((len(values), self.real.numel(), *values.shape[2:]), missing, dtype=values.dtype)
        whole[:, self._places] = values.cpu()
        return whole.unflatten(1, tuple(self.real.shape))

    def next_tokens(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "real"]:
        """The token after each packed row, by the ids of the whole prompts; -1 where its prompt ends."""
        prompt, row = self._places // self.real.shape[1], self._places % self.real.shape[1]
        following = self.context.offset + row + 1
        has_next = following < self.host_lengths[prompt]
        return tokens.cpu()[prompt, following.where(has_next, 0)].where(has_next, -1)

    @cached_property
    def _places(self) -> Int[Tensor, "real"]:
        """Where the real rows are in the flattened block, on the CPU."""
        return self.real.flatten().nonzero()[:, 0].cpu()

    def _real_of(self, values: Tensor) -> Bool[Tensor, "batch ..."]:
        """``real`` with as many dimensions as the values."""
        return _spread_over(self.real, values.movedim(self.axis, 1)).movedim(1, self.axis)


def _spread_over(mask: Tensor, values: Tensor) -> Tensor:
    """A mask of the first dimensions, with ones behind them."""
    return mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim))
