"""The real rows of a padded block, packed together, and what is computed of them put back in place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mcr_lens.hooks.context import BatchContext
from mcr_lens.metrics.rows import real_rows

__all__ = ["PackedRows"]


@dataclass(frozen=True)
class PackedRows:
    """Which rows of a block ``(batch, rows)`` are real tokens.

    Attributes:
        shape: ``(batch, rows)``.
        at: where the real rows are in the flattened block.
        targets: the token after each, -1 where the prompt ends; ``None`` where nobody knows them.
    """

    shape: tuple[int, int]
    at: Int[Tensor, "real"]
    targets: Int[Tensor, "real"] | None

    @classmethod
    def of(
        cls, context: BatchContext, batch: int, rows: int, tokens: Int[Tensor, "batch pos"] | None = None
    ) -> PackedRows:
        """The real rows of the block that the context describes; ``tokens``: ids of the whole prompts."""
        lengths = context.prompt_lengths(batch, rows).cpu()
        prompt, row = real_rows(lengths, rows, context.offset, torch.device("cpu")).nonzero(as_tuple=True)
        targets = None
        if tokens is not None:
            following = context.offset + row + 1
            has_next = following < lengths[prompt]
            targets = tokens.cpu()[prompt, following.where(has_next, 0)].where(has_next, -1)
        return cls((batch, rows), prompt * rows + row, targets)

    def __len__(self) -> int:
        return len(self.at)

    def pack(self, tensor: Shaped[Tensor, "batch rows *rest"]) -> Shaped[Tensor, "real *rest"]:
        """A copy of the real rows."""
        return tensor.detach().flatten(0, 1)[self.at.to(tensor.device)]

    def spread(self, values: Shaped[Tensor, "depth real *rest"]) -> Float[Tensor, "depth batch rows *rest"]:
        """Back in their places, on the CPU, with NaN (-1 for integers) in between."""
        batch, rows = self.shape
        missing = torch.nan if values.is_floating_point() else -1
        whole = torch.full((len(values), batch * rows, *values.shape[2:]), missing, dtype=values.dtype)
        whole[:, self.at] = values.cpu()
        return whole.unflatten(1, (batch, rows))
