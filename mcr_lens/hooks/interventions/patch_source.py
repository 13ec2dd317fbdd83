"""Where patched-in activations come from: rows of another run, looked up by prompt and position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext, is_pattern
from mcr_lens.hooks.record import Activations

__all__ = ["PatchSource"]

_EVERY_POSITION = 2**31


@dataclass(frozen=True)
class PatchSource:
    """Activations ``(prompt, pos, ...)`` of one hook point, or ``(prompt, head, query, key)`` of a pattern.

    Attributes:
        lengths: positions that each of its prompts has.
        of_pattern: whether it holds patterns.
        seed: draw a prompt of it at random for each prompt that is measured; ``None``: take the same one.
    """

    tensor: Tensor
    lengths: Int[Tensor, "prompt"]
    of_pattern: bool
    seed: int | None = None

    @classmethod
    def of(cls, source: Tensor | Mapping[str, Tensor] | Any, hook_name: str, call: str) -> PatchSource:
        """From a tensor, recorded activations, or a cache."""
        tensor = source
        if not isinstance(source, Tensor):
            try:
                tensor = source[hook_name]
            except KeyError as error:
                raise InputError(
                    f"{call}: the source has nothing under {hook_name!r}: record it there"
                ) from error
            except TypeError as error:
                raise InputError(
                    f"{call}: the source is a {type(source).__name__}: give a tensor, or a mapping of hook "
                    "names to tensors, as mcr_lens.record or run_with_cache return"
                ) from error
        of_pattern = is_pattern(hook_name)
        if not isinstance(tensor, Tensor) or tensor.ndim < (4 if of_pattern else 3) or not len(tensor):
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            wanted = "(prompt, head, query, key)" if of_pattern else "(prompt, pos, ...)"
            raise InputError(f"{call}: the source at {hook_name!r} is {shape}: give one of shape {wanted}")
        if isinstance(source, Activations):
            lengths = source.lengths
        else:
            lengths = torch.full((len(tensor),), tensor.shape[2 if of_pattern else 1])
        return cls(tensor.detach(), lengths, of_pattern)

    def mean_prompt(self) -> PatchSource:
        """One prompt: at every position the mean over the prompts that have it."""
        longest = self.tensor.shape[2 if self.of_pattern else 1]
        real = (torch.arange(longest)[None] < self.lengths[:, None].cpu()).to(self.tensor.device)
        shape = (-1, 1, longest, 1) if self.of_pattern else (-1, longest, *[1] * (self.tensor.ndim - 2))
        weight = real.reshape(shape).double()
        mean = (self.tensor.double() * weight).sum(0) / weight.sum(0)
        return PatchSource(mean[None].to(self.tensor.dtype), torch.tensor([longest]), self.of_pattern)

    def mean_token(self) -> PatchSource:
        """One row for every position: the mean over all real tokens."""
        if self.of_pattern:
            raise InputError("attention patterns have no mean over tokens: use over='prompts'")
        pairs = zip(self.tensor, self.lengths.tolist(), strict=True)
        rows = torch.cat([prompt[:length].double() for prompt, length in pairs])
        # One row of memory that stands at every position.
        row = rows.mean(0)[None, None].to(self.tensor.dtype).expand(1, _EVERY_POSITION, *rows.shape[1:])
        return PatchSource(row, torch.tensor([_EVERY_POSITION]), False)

    def prompts(self, context: BatchContext, needed: Int[Tensor, "batch"], call: str) -> Int[Tensor, "batch"]:
        """Which prompt of the source stands in for each prompt of the batch.

        Args:
            needed: positions that each must have; only a draw at random asks.
        """
        batch = len(needed)
        asked = list(range(batch)) if context.prompts is None else list(context.prompts)
        if self.seed is not None:
            return torch.tensor(
                [self._draw(*pair, call) for pair in zip(asked, needed.tolist(), strict=True)]
            )
        if len(self.tensor) == 1:
            return torch.zeros(batch, dtype=torch.int64)
        if max(asked) >= len(self.tensor) or (context.prompts is None and batch != len(self.tensor)):
            raise InputError(
                f"{call}: the source has {len(self.tensor)} prompts, {max(asked) + 1} are run: record it on "
                "the prompts that are run, or give one for all"
            )
        return torch.tensor(asked)

    def has(self, prompts: Int[Tensor, "row"], positions: Int[Tensor, "row"]) -> Tensor:
        """Whether the source has these positions."""
        return positions < self.lengths[prompts]

    def values(self, prompts: Int[Tensor, "row"], positions: Int[Tensor, "row"]) -> Float[Tensor, "row ..."]:
        """Activations at these places."""
        return self.tensor[prompts, positions]

    def pattern_rows(
        self,
        prompts: Int[Tensor, "row"],
        queries: Int[Tensor, "row"],
        first_key: int,
        own: Float[Tensor, "row head key"],
    ) -> Float[Tensor, "row head key"]:
        """Rows of patterns or scores from ``first_key`` on; ``own`` where the source has no key."""
        keys = own.shape[-1]
        rows = self.tensor[prompts, :, queries][..., first_key : first_key + keys].to(own)
        rows = torch.nn.functional.pad(rows, (0, keys - rows.shape[-1]))
        # Padding is no score: a 0 would let the query see what is masked.
        n_keys = self.lengths[prompts] + self.tensor.shape[-1] - self.tensor.shape[2]
        there = torch.arange(keys) + first_key < n_keys[:, None]
        return torch.where(there[:, None].to(own.device), rows, own)

    def _draw(self, row: int, needed: int, call: str) -> int:
        assert self.seed is not None
        order = np.random.default_rng((self.seed, row)).permutation(len(self.lengths))
        for prompt in order.tolist():
            if self.lengths[prompt] >= needed:
                return prompt
        raise InputError(
            f"{call}: no reference prompt has {needed} tokens, the longest has {int(self.lengths.max())}: "
            "record longer ones"
        )
