"""Where a forward pass outside the engine stands in its sequence: prefill, a chunk, a generated token.

A hook of ``generate`` with a KV cache is handed one row a step, and that row is not position 0. How many
tokens came before it shows in the attention pattern of block 0, which has a column for every key so far.
So each list of interventions begins with a hook there that only looks.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from weakref import ref

from jaxtyping import Float
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext, current_context, is_running
from mcr_lens.models.info import owner_of

__all__ = ["FIRST_OUTPUT", "FIRST_PATTERN", "Follower", "growing", "is_growing"]

FIRST_PATTERN = "blocks.0.attn.hook_pattern"
FIRST_OUTPUT = "blocks.0.attn.hook_z"

# What fires after the last block; all else outside the blocks fires before them.
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
        self._looks = 0
        self._calls: Counter[str] = Counter()  # by hook point, to compare with the looks
        self._guess: int | None = None
        self._pattern: ref[Tensor] | None = None  # the one that was looked at last

    def look(self, pattern: Tensor, hook: object) -> None:
        """The hook at block 0's pattern: keys beyond the queries were there before."""
        if is_running():
            return
        self._looks += 1
        if self._pattern is not None and self._pattern() is pattern:
            return  # the list stands twice in one list: the same pass
        queries, keys = pattern.shape[-2:]
        if keys == queries:
            _refuse_left_padding(pattern)
        self._offset = self._tokens_before(queries, keys, hook)
        self._end = self._offset + queries
        self.edited(pattern)
        guess, self._guess = self._guess, None
        if guess is not None and guess != self._offset:
            self._end = 0  # what comes next is another sequence
            raise InputError(
                f"an edit before the attention of block 0 took its first row for position {guess}, it was "
                f"{self._offset}: build the list anew for every sequence, or say where it stands with "
                "mcr_lens.hooks.running(BatchContext(offset))"
            )

    def edited(self, pattern: Tensor) -> None:
        """Remember block 0's pattern as an edit left it: it still belongs to the pass that was looked at."""
        self._pattern = ref(pattern)

    def context(self, name: str, rows: int) -> BatchContext:
        """Where a block of ``rows`` rows stands at a hook point.

        A look that the hook point has not used up yet was at this very pass. Without one the point fires
        before the pattern of block 0 (which points do depends on the architecture), or the run starts above
        block 0; then nothing is known of a cache.
        """
        if is_running():
            return current_context()
        if self.was_looked_at(name):
            return BatchContext(self._offset)
        if not may_fire_first(name):
            return BatchContext()
        self._calls[name] += 1
        # One row after others: a generated token. More: a new sequence. The look will tell.
        self._guess = self._end if rows == 1 else 0
        return BatchContext(self._guess)

    def was_looked_at(self, name: str) -> bool:
        """Whether block 0's pattern came before a hook point that fires now; to be asked once a firing."""
        if self._looks > self._calls[name]:
            self._calls[name] += 1
            return True
        return False

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
        if window is not None and keys - queries < window - 1:
            return keys - queries
        if window is not None and self._end < keys - queries:
            raise InputError(
                f"the cache holds {keys - queries} earlier tokens, all that a window of {window} keeps, and "
                "perhaps there were more: attach interventions from the first token on, or say where the "
                "sequence stands with mcr_lens.hooks.running(BatchContext(offset))"
            )
        return max(self._end, keys - queries)


def may_fire_first(name: str) -> bool:
    """Whether a hook point may fire before the attention pattern of block 0 does."""
    return name.startswith("blocks.0.") or not name.startswith(("blocks.", *_AFTER_BLOCKS))


def _refuse_left_padding(pattern: Float[Tensor, "batch head query key"]) -> None:
    """The first row of a prompt that begins later is masked: it sees the future, or nothing at all."""
    first, last = pattern[:, :, 0], pattern[:, :, -1]
    # In all heads: an edit of somebody else may let one see anything.
    sees_future = (first[..., 1:] != 0).any(2).all(1)
    sees_nothing = (first == 0).flatten(1).all(1) & (last != 0).flatten(1).any(1)
    padded = (sees_future | sees_nothing).nonzero()
    if len(padded):
        raise InputError(
            f"prompt {int(padded[0])} of the batch does not begin in its first row (left padding): there a "
            "row is no position; run prompts of one length together, or one at a time"
        )
