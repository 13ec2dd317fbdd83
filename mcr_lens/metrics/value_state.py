"""Norms of the value vectors of one layer, taken in by blocks of rows, mergeable."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.metrics.rows import SinkPositions, full_lengths, real_rows, sink_set

__all__ = ["ValueState"]


class ValueState:
    """Running sums behind ``sink_value_ratio``; the arguments are those of ``AttentionState``.

    Of several sinks it is the primary one's.
    """

    def __init__(self, lengths: Int[Tensor, "batch"], sink_position: SinkPositions = 0) -> None:
        self.lengths = full_lengths(len(lengths), int(lengths.max()), lengths, sink_position)
        self.sink_position = sink_set(sink_position)[0]
        self._sink: Tensor | float = 0.0
        self._total: Tensor | float = 0.0

    def update(self, values: Float[Tensor, "batch rows value_head d_head"], offset: int = 0) -> None:
        """Take in the value vectors at positions ``offset, offset + 1, ...``."""
        rows = values.shape[1]
        keep = real_rows(self.lengths, rows, offset, values.device)[..., None]
        norms = torch.linalg.vector_norm(values.detach().double(), dim=-1)
        self._total = self._total + torch.where(keep, norms, 0.0).sum(1)
        if offset <= self.sink_position < offset + rows:
            self._sink = norms[:, self.sink_position - offset]

    def merge(self, other: ValueState) -> ValueState:
        """Add the sums of another state of the same prompts that saw other rows; returns ``self``."""
        self._total = self._total + other._total
        self._sink = self._sink + other._sink
        return self

    def result(self) -> Float[Tensor, "batch value_head"]:
        """``||v_s||`` over the mean of ``||v_i||`` over all real tokens, per value head."""
        total = torch.as_tensor(self._total)
        return self._sink * self.lengths.to(total.device)[:, None] / total
