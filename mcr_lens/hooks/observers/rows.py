"""The rows of a block: which are real tokens, whose they are, and where in their prompts they stand."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mcr_lens.hooks.context import BatchContext, current_context

__all__ = ["Rows"]


class Rows:
    """The rows of the block that a hook is given, ``(batch, rows, ...)``, padded on the right.

    Attributes:
        prompts: index of each prompt of the batch among all that are measured.
        lengths: tokens of each prompt, ``(batch,)``.
        positions: position in the prompt of each row, ``(rows,)``.
        real: which rows are tokens, not padding, ``(batch, rows)``.
        tokens: ids of the whole padded prompts, ``(batch, pos)``; ``None`` where nobody knows them.
        axis: where the rows are: 1, or 2 for attention patterns and scores.
    """

    def __init__(self, block: Tensor, context: BatchContext | None = None, axis: int = 1) -> None:
        self._context = current_context() if context is None else context
        batch, n_rows, device = len(block), block.shape[axis], block.device
        lengths = self._context.prompt_lengths(batch, n_rows)
        self.axis = axis
        self.prompts = tuple(range(batch)) if self._context.prompts is None else self._context.prompts
        self.lengths = lengths.to(device)
        self.positions = torch.arange(n_rows, device=device) + self._context.offset
        self.real: Bool[Tensor, "batch rows"] = self.positions < self.lengths[:, None]
        self.tokens: Int[Tensor, "batch pos"] | None = self._context.tokens
        self._has_padding = int(lengths.min()) < self._context.offset + n_rows

    def last(self, values: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The values of each prompt's last token; NaN for a prompt that does not end in this block."""
        return self.at(values, -1)

    def at(self, values: Shaped[Tensor, "batch ..."], position: int) -> Float[Tensor, "batch ..."]:
        """The values at a position of each prompt, from its end if negative; NaN where it is elsewhere."""
        values = values.movedim(self.axis, 1)
        at = self.lengths + position if position < 0 else torch.full_like(self.lengths, position)
        rows = at - self._context.offset
        here = (at >= 0) & (at < self.lengths) & (rows >= 0) & (rows < values.shape[1])
        picked = values[torch.arange(len(values), device=at.device), rows.clamp(0, values.shape[1] - 1)]
        picked = picked.to(torch.promote_types(values.dtype, torch.float32))
        return torch.where(here.reshape(-1, *[1] * (picked.ndim - 1)), picked, torch.nan)

    def total(self, values: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Sum over each prompt's tokens in this block, in float64."""
        return torch.where(self._real_of(values), values, 0.0).sum(self.axis, dtype=torch.float64)

    def mean(self, values: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Mean over each prompt's tokens in this block; NaN where it has none."""
        total = self.total(values)
        return total / self.real.sum(1).reshape(-1, *[1] * (total.ndim - 1))

    def without_padding(self, block: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "batch ..."]:
        """The block in float32 or better, with NaN in the rows that are padding."""
        block = block.to(torch.promote_types(block.dtype, torch.float32))
        return torch.where(self._real_of(block), block, torch.nan) if self._has_padding else block

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
        """The token after each packed row, on the CPU; -1 where its prompt ends.

        Args:
            tokens: ids of the whole prompts.
        """
        prompt, row = self._places // self.real.shape[1], self._places % self.real.shape[1]
        following = self._context.offset + row + 1
        has_next = following < self.lengths.cpu()[prompt]
        return tokens.cpu()[prompt, following.where(has_next, 0)].where(has_next, -1)

    @cached_property
    def _places(self) -> Int[Tensor, "real"]:
        """Where the real rows are in the flattened block, on the CPU."""
        return self.real.flatten().nonzero()[:, 0].cpu()

    def _real_of(self, values: Tensor) -> Bool[Tensor, "batch ..."]:
        """``real`` with as many dimensions as the values."""
        ones = [1] * (values.ndim - self.axis - 1)
        return self.real.reshape(len(values), *[1] * (self.axis - 1), -1, *ones)
