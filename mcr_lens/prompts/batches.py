"""``Prompts``: token lists with their lengths and their origin, and the batches made of them."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.prompts.checks import check_texts, has_bos_of_its_own, real_tokens
from mcr_lens.validate import is_whole

__all__ = ["Batch", "BatchCost", "Prompts", "check_number"]


class Batch(NamedTuple):
    """Prompts of similar length, right-padded."""

    tokens: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, "batch"]
    prompts: tuple[int, ...]


class BatchCost(NamedTuple):
    """What a batch costs, counted in padded tokens; of a model: ``mcr_lens.models.batch_cost``.

    Attributes:
        per_batch: as many padded tokens as one more batch costs.
        max_tokens: padded tokens that a batch may have; one prompt alone may have more.
        boundary: prompts of more tokens never share a batch with others: the model computes them otherwise.
    """

    per_batch: int = 64
    max_tokens: int = 1024
    boundary: int | None = None


@dataclass(frozen=True)
class Prompts:
    """A set of prompts, tokenised once.

    Attributes:
        tokens: token ids of each prompt, BOS included where the policy says so; at least 2 each.
        source: where they came from, for the record.
        bos: what stands first: ``"prepended"``, ``"eos prepended"`` (asked for on a tokenizer that has no
            BOS), ``"in the text"``, ``"none"``, or ``"given"`` (tokens came from the user).
        options: how they were chosen: field, number, seed, split and the like, for the record.
        truncated: how many prompts were cut to ``max_tokens``.
        dropped: how many texts were left out because they were blank or had fewer than 2 tokens.
        maybe_padded: whether they are rows of one rectangular batch of ids whose padding nobody named; where
            the model is known, runs of its padding id at their ends are left out (``prompts.checks``).
    """

    tokens: tuple[tuple[int, ...], ...]
    source: str = "tokens"
    bos: str = "given"
    truncated: int = 0
    dropped: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    maybe_padded: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if not self.tokens:
            raise InputError(f"no prompts in {self.source}: give at least one of 2 tokens or more")
        if (least := min(self.lengths)) < 2:
            raise InputError(
                f"prompt {self.lengths.index(least)} of {self.source} has {least} token(s): "
                "a prompt needs at least 2, leave it out"
            )

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        model: Any,
        *,
        n: int | None = None,
        max_tokens: int | None = None,
        prepend_bos: bool | None = None,
        source: str = "texts",
        options: Mapping[str, Any] | None = None,
    ) -> Prompts:
        """Tokenise texts with the model's tokenizer.

        Args:
            n: take so many prompts, the first that have 2 tokens; what follows is not read.
            max_tokens: longer prompts are cut to this many tokens, BOS included, and counted.
            prepend_bos: put the BOS first; ``None``: when the tokenizer has one of its own (for one without,
                TransformerLens puts its EOS in that place: ``True`` takes that). A BOS that a text
                already begins with is not doubled.

        Raises:
            InputError: for a single string or what is no string, a model without a tokenizer, a BOS that is
                asked for and missing, or when no text has 2 tokens.
        """
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise InputError(f"texts is a {type(texts).__name__}: give a list of strings, such as [text]")
        check_number("max_tokens", max_tokens, 2, "a prompt needs at least 2 tokens")
        tokenizer = getattr(model, "tokenizer", None)
        if tokenizer is None:
            raise InputError("the model has no tokenizer: use Prompts.from_tokens")
        bos, is_own = tokenizer.bos_token_id, has_bos_of_its_own(tokenizer)
        if prepend_bos and bos is None:
            raise InputError("the tokenizer has no BOS token: use prepend_bos=False")
        first = [bos] if bos is not None and (is_own if prepend_bos is None else prepend_bos) else []
        left, n_texts = iter(texts), 0
        whole: list[list[int]] = []
        while block := check_texts(islice(left, None if n is None else n - len(whole)), source, n_texts):
            n_texts += len(block)
            encoded = tokenizer(block, add_special_tokens=False, verbose=False)["input_ids"]
            with_bos = (ids if ids[:1] == first else first + ids for ids in encoded)
            whole += [ids for ids in with_bos if len(ids) >= 2]
        if not whole:
            raise InputError(f"no text of {source} has 2 tokens or more: nothing to measure")
        rows = tuple(tuple(ids[:max_tokens]) for ids in whole)
        if first:
            policy = "prepended" if is_own else "eos prepended"
        else:
            policy = "in the text" if any(ids[0] == bos for ids in rows) else "none"
        return cls(
            rows,
            source=source,
            bos=policy,
            options={"max_tokens": max_tokens, **(options or {})},
            truncated=sum(max_tokens is not None and len(ids) > max_tokens for ids in whole),
            dropped=n_texts - len(rows),
        )

    @classmethod
    def from_tokens(
        cls,
        tokens: Sequence[Sequence[int]] | Tensor,
        source: str = "tokens",
        *,
        lengths: Sequence[int] | Tensor | None = None,
        attention_mask: Sequence[Sequence[int]] | Tensor | None = None,
    ) -> Prompts:
        """Token lists as they are, for a model without a tokenizer or a policy of your own.

        Args:
            lengths: real tokens of each row of a right-padded batch.
            attention_mask: 1 for each real token of a batch that is padded at either end, 0 for padding.

        A batch whose padding is not named is looked at where it is measured: runs of the padding id of the
        model's tokenizer at the ends of rows are left out, with a warning. Where that id is the BOS or EOS as
        well, as in GPT-2, such a batch is refused there: give ``lengths`` or ``attention_mask``.

        Raises:
            InputError: for anything but lists of whole numbers, a list of fewer than 2, or lengths or a mask
                that do not fit them.
        """
        try:
            rows = tokens.tolist() if isinstance(tokens, Tensor) else tokens
            ids = tuple(tuple(operator.index(token) for token in row) for row in rows)
        except TypeError as error:
            raise InputError(f"{source}: give lists of token ids, one a prompt ({error})") from error
        named = {"lengths": lengths, "attention_mask": attention_mask}
        names = [name for name, values in named.items() if values is not None]
        return cls(
            real_tokens(ids, source, **named),
            source=source,
            options={"padding": f"named by {names[0]}"} if names else {},
            maybe_padded=not names and len({*map(len, ids)}) == 1,
        )

    def __repr__(self) -> str:
        return (
            f"Prompts: {len(self)} of {min(self.lengths)} to {max(self.lengths)} tokens, from {self.source}\n"
            f"BOS {self.bos}; {self.truncated} truncated, {self.dropped} dropped; digest {self.digest}\n"
            f"first: {list(self.tokens[0][:6])}{' ...' * (self.lengths[0] > 6)}"
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: slice) -> Prompts:
        """A slice, as prompts of the same source."""
        if not isinstance(index, slice):
            raise TypeError("Prompts takes slices; the token ids of one prompt are .tokens[i]")
        return replace(self, tokens=self.tokens[index])

    def cut(self, n_tokens: int) -> Prompts:
        """The first ``n_tokens`` of every prompt that has as many; shorter prompts are dropped and counted.

        Measures that depend on the length are only comparable between prompts of one length.

        Raises:
            InputError: when no prompt is as long.
        """
        rows = tuple(prompt[:n_tokens] for prompt in self.tokens if len(prompt) >= n_tokens)
        if n_tokens < 2 or not rows:
            raise InputError(
                f"cut({n_tokens}): the prompts have {min(self.lengths)} to {max(self.lengths)} tokens; use a "
                f"number from 2 to {max(self.lengths)}"
            )
        return replace(
            self,
            tokens=rows,
            truncated=sum(length > n_tokens for length in self.lengths),
            dropped=self.dropped + len(self) - len(rows),
            options={**self.options, "cut": n_tokens},
        )

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each prompt."""
        return tuple(len(prompt) for prompt in self.tokens)

    @property
    def first_tokens(self) -> tuple[int, ...]:
        """The token id at position 0 of each prompt."""
        return tuple(prompt[0] for prompt in self.tokens)

    @property
    def digest(self) -> str:
        """A hash of all token ids in order: the same prompts give the same digest."""
        return hashlib.sha256(json.dumps(self.tokens).encode()).hexdigest()[:16]

    def attributes(self) -> dict[str, Any]:
        """What a result stores about its prompts."""
        names = ("source", "digest", "bos", "options", "truncated", "dropped")
        return {name: getattr(self, name) for name in names} | {"options": dict(self.options)}

    def batches(
        self,
        batch_size: int | None = None,
        cost: BatchCost = BatchCost(),  # noqa: B008  (immutable)
    ) -> Iterator[Batch]:
        """Batches of prompts of similar length, longest first.

        ``batch_size=None`` cuts where padded tokens and batches together cost least. Longest first: if memory
        does not suffice, that shows at once.
        """
        order = sorted(range(len(self)), key=lambda i: -self.lengths[i])
        n_long = sum(cost.boundary is not None and length > cost.boundary for length in self.lengths)
        for side in filter(None, (order[:n_long], order[n_long:])):
            yield from self._batches(side, batch_size, cost)

    def _batches(self, order: Sequence[int], batch_size: int | None, cost: BatchCost) -> Iterator[Batch]:
        if batch_size is None:
            sizes = _cheapest_sizes([self.lengths[i] for i in order], cost)
        else:
            sizes = [batch_size] * math.ceil(len(order) / batch_size)
        start = 0
        for size in sizes:
            prompts = tuple(order[start : start + size])
            rows = [self.tokens[i] for i in prompts]
            # Right padding is not attended to by a real token of a causal model, but 0 times Inf is NaN: no
            # token goes in that the prompt does not hold, lest it overflow where the prompt does not.
            padded = [row + row[-1:] * (len(rows[0]) - len(row)) for row in rows]
            yield Batch(torch.tensor(padded), torch.tensor([len(row) for row in rows]), prompts)
            start += size


def _cheapest_sizes(lengths: Sequence[int], cost: BatchCost) -> list[int]:
    """Sizes of batches of prompts, longest first, whose padded tokens and number cost least.

    ``least[i]``: the least cost of the first ``i`` prompts; their last batch begins at ``begins[i]``.
    """
    longest = np.array(lengths)
    least, begins = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, dtype=int)
    first = 0
    for i in range(1, len(lengths) + 1):
        # Batches that end here begin at ``first`` at the earliest: one that begins before is too large.
        while first < i - 1 and (i - first) * longest[first] > cost.max_tokens:
            first += 1
        starts = np.arange(first, i)
        totals = least[first:i] + (i - starts) * longest[first:i] + cost.per_batch
        best = int(totals.argmin())
        least[i], begins[i] = totals[best], starts[best]
    sizes, end = [], len(lengths)
    while end:
        sizes.append(end - int(begins[end]))
        end = int(begins[end])
    return sizes[::-1]


def check_number(name: str, number: int | None, least: int, why: str) -> None:
    """Raise ``InputError`` unless a number was left out or is whole and large enough."""
    if number is not None and not is_whole(number, least):
        raise InputError(f"{name} = {number!r}: {why}; use a whole number from {least}, or leave it out")
