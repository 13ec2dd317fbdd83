"""Where a forward pass outside the engine stands in its sequence: prefill, a chunk, a generated token.

A hook of ``generate`` with a KV cache is handed one row a step, and that row is not position 0. How many
tokens came before it shows in the attention pattern of block 0, which has a column for every key so far.
So each list of interventions begins with a hook there that only looks.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext, current_context, is_running
from mcr_lens.models.facts import owner_of

__all__ = ["FIRST_PATTERN", "Follower", "growing", "is_growing"]

FIRST_PATTERN = "blocks.0.attn.hook_pattern"

# What fires after the pattern of block 0 in that block; all else in it, and the embeddings, fire before.
_AFTER_PATTERN = (
    "attn.hook_pattern",
    "attn.hook_z",
    "attn.hook_result",
    "attn.o.",
    "attn.hook_out",
    "hook_attn_out",
    "hook_resid_mid",
    "ln2",
    "mlp.",
    "hook_mlp",
    "hook_resid_post",
    "hook_out",
)
_AFTER_BLOCKS = ("ln_final.", "unembed.", "hook_unembed")

_GROWING: ContextVar[bool] = ContextVar("mcr_lens_growing", default=False)


@contextlib.contextmanager
def growing() -> Iterator[None]:
    """Inside, a position that the sequence does not have yet is waited for instead of refused.

    For interventions on tokens that ``generate`` or a later chunk of yours will bring.
    """
    token = _GROWING.set(True)
    try:
        yield
    finally:
        _GROWING.reset(token)


def is_growing() -> bool:
    """True inside ``growing``."""
    return _GROWING.get()


class Follower:
    """Follows forward passes that may share a KV cache, for one list of hooks."""

    def __init__(self) -> None:
        self._offset = 0  # of the pass that was looked at last
        self._end = 0  # tokens seen when it was over
        self._passes = 0
        self._guess: int | None = None

    def look(self, pattern: Tensor, hook: object) -> None:
        """The hook at block 0's pattern: keys beyond the queries were there before."""
        if is_running():
            return
        queries, keys = pattern.shape[-2:]
        self._offset = self._tokens_before(queries, keys, hook)
        self._end = self._offset + queries
        self._passes += 1
        guess, self._guess = self._guess, None
        if guess is not None and guess != self._offset:
            raise InputError(
                f"an edit before the attention of block 0 took its first row for position {guess}, it was "
                f"{self._offset}: build the list anew for every sequence, or say where it stands with "
                "mcr_lens.hooks.running(BatchContext(offset))"
            )

    def context(self, name: str, rows: int, last_pass: int) -> tuple[BatchContext, int]:
        """Where a block of ``rows`` rows stands at a hook point, and the number of this pass.

        ``last_pass`` is the number that the same hook point was given before: without a look at the pattern
        since (a run that starts above block 0) nothing is known of a cache.
        """
        if is_running():
            return current_context(), 0
        if fires_before_pattern(name):
            # One row after others: a generated token. More: a new sequence. The look will tell.
            self._guess = self._end if rows == 1 else 0
            return BatchContext(self._guess), 0
        return BatchContext(self._offset if self._passes > last_pass else 0), self._passes

    def _tokens_before(self, queries: int, keys: int, hook: object) -> int:
        """Under a sliding window the cache forgets keys; then what was seen before is what is known."""
        if keys == queries:
            return 0
        owner, window = owner_of(hook), None
        if owner is not None:
            facts = owner[1]
            window = facts.windows[0]
            if window is None or facts.backend == "hooked_transformer":
                return keys - queries
        forgets = window is None or keys - queries >= window - 1
        return max(self._end, keys - queries) if forgets else keys - queries


def fires_before_pattern(name: str) -> bool:
    """Whether a hook point fires before the attention pattern of block 0 does."""
    if name.startswith("blocks.0."):
        return not name.removeprefix("blocks.0.").startswith(_AFTER_PATTERN)
    return not name.startswith(("blocks.", *_AFTER_BLOCKS))
