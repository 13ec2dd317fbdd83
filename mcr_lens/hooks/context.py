"""Where am I? What a plain ``(hook name, function)`` cannot know of the tensor it is given.

A hook sees a block of rows: perhaps one chunk of a long prompt, perhaps padded, its prompts perhaps
reordered. The engine says which, here; a forward pass outside the engine gets the default, in which the
block starts at position 0 and every row is real. So a position means a position in the prompt
everywhere, and -1 its last real token.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["BatchContext", "current_context", "is_running", "running"]


@dataclass(frozen=True)
class BatchContext:
    """The block of rows that the current forward pass runs on.

    Attributes:
        offset: position in the prompt of the block's first row.
        lengths: real tokens of each prompt, all chunks together; ``None``: as many as the block has.
        prompts: index of each row's prompt in the set that is measured; ``None`` outside the engine.
        tokens: token ids of the whole padded prompts, all chunks together; ``None`` outside the engine.
    """

    offset: int = 0
    lengths: Int[Tensor, "batch"] | None = None
    prompts: tuple[int, ...] | None = None
    tokens: Int[Tensor, "batch pos"] | None = None

    def prompt_lengths(self, batch: int, rows: int) -> Int[Tensor, "batch"]:
        """Real tokens of each prompt, for a block of ``(batch, rows)``."""
        if self.lengths is None:
            return torch.full((batch,), self.offset + rows)
        return self.lengths

    def ends_with(self, rows: int) -> bool:
        """True when no prompt goes on after a block of ``rows`` rows."""
        return self.lengths is None or self.offset + rows >= int(self.lengths.max())

    def rows_at(self, position: int, batch: int, rows: int) -> tuple[Tensor, Tensor]:
        """Where a position of the prompt sits in a block: ``(prompts, rows)``, aligned indices.

        A negative position counts from each prompt's last real token. Prompts whose token is not in
        this block are left out, so the indices may be empty.
        """
        lengths = self.prompt_lengths(batch, rows)
        at = lengths + position if position < 0 else torch.full((batch,), position)
        inside = (at >= self.offset) & (at < self.offset + rows) & (at < lengths) & (at >= 0)
        (prompts,) = torch.nonzero(inside, as_tuple=True)
        return prompts, at[prompts] - self.offset

    def owners(self, which: Int[Tensor, "chosen"]) -> tuple[int, ...] | None:
        """Whose the chosen rows of the batch are, for ``PromptTable.add``; ``None`` outside the engine."""
        return None if self.prompts is None else tuple(self.prompts[i] for i in which.tolist())


_CURRENT: ContextVar[BatchContext | None] = ContextVar("mcr_lens_batch_context", default=None)


def current_context() -> BatchContext:
    """The context of the forward pass that is running."""
    return _CURRENT.get() or BatchContext()


def is_running() -> bool:
    """True inside ``running``: somebody knows where in its prompts the forward pass stands."""
    return _CURRENT.get() is not None


@contextlib.contextmanager
def running(context: BatchContext) -> Iterator[None]:
    """Set the context for the forward passes inside the block."""
    token = _CURRENT.set(context)
    try:
        yield
    finally:
        _CURRENT.reset(token)
