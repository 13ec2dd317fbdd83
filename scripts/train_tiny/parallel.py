"""One run on several processes: each takes every n-th row of a batch, gradients are summed.

Start it with `torchrun --nproc-per-node 2 -m train_tiny.train ...`. The sum is the gradient of the
whole batch, so the number of processes changes a run by no more than rounding.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Peers"]


@dataclass(frozen=True)
class Peers:
    """This process among those of the run; alone unless `torchrun` started several."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Peers:
        """Meet the other processes that `torchrun` started."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        dist.init_process_group("gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    def rows(self, batch: list[list[int]]) -> list[list[int]]:
        """This process's share of a batch.

        Raises:
            ValueError: fewer rows than processes.
        """
        if len(batch) < self.count:
            raise ValueError(f"{len(batch)} rows for {self.count} processes: raise --tokens-per-batch")
        return batch[self.rank :: self.count]

    def sum(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sums of float32 tensors over processes, in one exchange."""
        if self.count == 1:
            return tensors
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            dist.barrier()
