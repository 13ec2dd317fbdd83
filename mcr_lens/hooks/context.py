"""Where am I? What a plain ``(hook name, function)`` cannot know of the tensor it is given.

A hook sees a block of rows: perhaps one chunk of a long prompt, perhaps padded, its prompts perhaps
reordered. The engine says which, here. In a forward pass outside the engine the KV cache and the attention
mask of the pass say it, for models that are followed (``models/passes.py``). So a position means a position
in the prompt everywhere, and -1 its last real token.
"""

import contextlib
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.models.passes import current_pass, padding_mask

__all__ = [
    "GROWING",
    "BatchContext",
    "context_at",
    "current_context",
    "is_pattern",
    "observed_context",
    "running",
]


@dataclass(frozen=True)
class BatchContext:
    """The block of rows that the current forward pass runs on.

    Attributes:
        offset: tokens of the sequence before the block's first row.
        lengths: real tokens of each prompt, all chunks together; ``None``: as many as the block has.
        prompts: index of each row's prompt in the set that is measured; ``None`` outside the engine.
        tokens: token ids of the whole padded prompts, all chunks together; ``None`` outside the engine.
        mask: where the tokens so far are real; ``None``: everywhere, up to ``lengths``.
        grows: whether tokens may follow, so that a position which is not there is waited for.
    """

    offset: int = 0
    lengths: Int[Tensor, "batch"] | None = None
    prompts: tuple[int, ...] | None = None
    tokens: Int[Tensor, "batch pos"] | None = None
    mask: Bool[Tensor, "batch pos"] | None = None
    grows: bool = False

    def prompt_lengths(self, batch: int, rows: int) -> Int[Tensor, "batch"]:
        """Real tokens of each prompt, for a block of ``(batch, rows)``."""
        if self.mask is not None:
            return self.mask.sum(1)
        if self.lengths is None:
            return torch.full((batch,), self.offset + rows)
        return self.lengths

    def ends_with(self, rows: int) -> bool:
        """True when no prompt goes on after a block of ``rows`` rows."""
        return self.lengths is None or self.offset + rows >= int(self.lengths.max())

    def real_rows(self, batch: int, rows: int) -> Bool[Tensor, "batch rows"]:
        """Which rows of the block are real tokens."""
        if self.mask is not None:
            return self.mask[:, self.offset : self.offset + rows]
        lengths = self.prompt_lengths(batch, rows).cpu()
        return torch.arange(rows)[None] + self.offset < lengths[:, None]

    def columns(self, prompts: Int[Tensor, "n"], positions: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
        """Where positions of prompts stand in the sequence, padding counted."""
        if self.mask is None:
            return positions
        real = self.mask[prompts]
        return (real & (real.cumsum(1) == positions[:, None] + 1)).int().argmax(1)

    def positions(self, prompts: Int[Tensor, "n"], columns: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
        """The converse of ``columns``, for real tokens."""
        return columns if self.mask is None else self.mask.cumsum(1)[prompts, columns] - 1


_CURRENT: ContextVar[BatchContext | None] = ContextVar("mcr_lens_batch_context", default=None)
# Set by ``mcr_lens.generating``.
GROWING: ContextVar[bool] = ContextVar("mcr_lens_growing", default=False)


def current_context() -> BatchContext:
    """What the engine says; outside of it the default, a whole prompt without padding."""
    return _CURRENT.get() or BatchContext()


def context_at(hook_point: Any) -> BatchContext | None:
    """Where the block stands that a hook point fires on; ``None`` where nobody can say."""
    context = _CURRENT.get()
    if context is not None:
        return context
    here = current_pass(hook_point)
    if here is None:
        return None
    grows = GROWING.get() or here.offset > 0
    # A sequence that grows may end in a token that serves as padding elsewhere.
    mask = padding_mask(hook_point, here) if here.mask is None and not grows else here.mask
    mask = None if mask is None or bool(mask.all()) else mask.bool().cpu()
    return BatchContext(here.offset, mask=mask, grows=grows)


def observed_context(hook_point: Any, batch: int) -> BatchContext:
    """Where a block of ``batch`` prompts stands that an observer is given.

    Raises:
        InputError: in a pass outside the engine that is padded or goes on from a cache: whose rows these
            are, and when their prompts end, is not known there.
    """
    context = context_at(hook_point)
    if context is None:
        if batch > 1:
            warnings.warn(
                "nothing says which rows of this pass are padding, so all count as tokens: use mcr.measure, "
                "or pass the model through mcr.load_model",
                stacklevel=4,
            )
        return BatchContext()
    if _CURRENT.get() is None and (context.mask is not None or context.offset > 0):
        raise InputError(
            "an observer meets a padded batch, or a block that goes on from a KV cache: use mcr.measure, "
            "which knows where each prompt begins and ends; where no token is padding, give "
            "attention_mask=torch.ones_like(tokens)"
        )
    return context


@contextlib.contextmanager
def running(context: BatchContext) -> Iterator[None]:
    """Set the context for the forward passes inside the block."""
    token = _CURRENT.set(context)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def is_pattern(name: str) -> bool:
    """Whether a hook point's activation is ``(batch, head, query, key)``."""
    return name.endswith(("hook_pattern", "hook_attn_scores"))
