"""Pairs of prompts that differ in what is asked about and in nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.prompts import BatchCost, Prompts
from mcr_lens.validate import is_whole

__all__ = ["PairBatch", "PromptPairs"]


@dataclass(frozen=True)
class PairBatch:
    """The pairs whose logits a metric is given, right-padded.

    Attributes:
        clean: token ids of the clean prompts.
        corrupt: token ids of the corrupt prompts.
        lengths: real tokens of each pair; what follows is padding.
        pairs: index of each row's pair in the set.
        answers: the token that the clean prompt asks for.
        wrong_answers: the token that the corrupt prompt asks for.
        clean_logits: those of the clean run at each pair's last real token, float32, on the CPU.
    """

    clean: Int[Tensor, "batch pos"]
    corrupt: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, "batch"]
    pairs: tuple[int, ...]
    answers: Int[Tensor, "batch"] | None = None
    wrong_answers: Int[Tensor, "batch"] | None = None
    clean_logits: Float[Tensor, "batch d_vocab"] | None = None


@dataclass(frozen=True)
class PromptPairs:
    """Clean and corrupt prompts, one pair a row, each pair of equal length.

    A position must mean the same in both, so a pair that tokenises to two lengths is refused; different
    pairs may have different lengths.

    Attributes:
        clean: prompts whose behaviour is asked about.
        corrupt: the same prompts with something changed. They may equal ``clean`` where the two runs are to
            differ in their interventions.
        answers: token that should follow each clean prompt.
        wrong_answers: token that should follow each corrupt prompt.

    Raises:
        InputError: for unequal numbers or lengths, naming the first bad pair.

    Example:
        >>> clean, corrupt = [[0, 5, 7, 9]], [[0, 5, 8, 9]]
        >>> from mcr_lens.prompts import Prompts
        >>> pairs = PromptPairs(Prompts.from_tokens(clean), Prompts.from_tokens(corrupt), answers=(7,))
        >>> len(pairs), pairs.lengths
        (1, (4,))
    """

    clean: Prompts
    corrupt: Prompts
    answers: tuple[int, ...] | None = None
    wrong_answers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, prompts in (("clean", self.clean), ("corrupt", self.corrupt)):
            if not isinstance(prompts, Prompts):
                way_out = "give Prompts, or use PromptPairs.from_texts(clean, corrupt, model)"
                raise InputError(f"{name} is a {type(prompts).__name__}: {way_out}")
        if len(self.clean) != len(self.corrupt):
            sizes = f"{len(self.clean)} clean prompts and {len(self.corrupt)} corrupt ones"
            raise InputError(f"{sizes}: give one of each a pair")
        for pair, (clean, corrupt) in enumerate(zip(self.clean.lengths, self.corrupt.lengths, strict=True)):
            if clean != corrupt:
                raise InputError(
                    f"pair {pair}: the clean prompt has {clean} tokens, the corrupt one {corrupt}, and a "
                    "position must mean the same in both: reword one, or leave the pair out"
                )
        for name in ("answers", "wrong_answers"):
            object.__setattr__(self, name, _token_ids(getattr(self, name), len(self), name))

    @classmethod
    def from_texts(
        cls,
        clean: Sequence[str],
        corrupt: Sequence[str],
        model: Any,
        answers: Sequence[str] | None = None,
        wrong_answers: Sequence[str] | None = None,
        *,
        prepend_bos: bool | None = None,
    ) -> PromptPairs:
        """Tokenise both with the model's tokenizer.

        Args:
            answers: one text a pair that is exactly one token, mostly with a space in front (``" Mary"``).
            wrong_answers: as ``answers``.
            prepend_bos: as in ``Prompts.from_texts``.

        Raises:
            InputError: for pairs of unequal length, answers of more than one token, and as
                ``Prompts.from_texts``.
        """
        sides = {"clean": clean, "corrupt": corrupt}
        prompts = [
            Prompts.from_texts(texts, model, prepend_bos=prepend_bos, source=f"{name} texts")
            for name, texts in sides.items()
        ]
        for name, side in zip(sides, prompts, strict=True):
            if side.dropped:
                raise InputError(
                    f"{side.dropped} of the {name} texts have fewer than 2 tokens: leave their pairs out"
                )
        right = _single_tokens(answers, model.tokenizer, "answers")
        wrong = _single_tokens(wrong_answers, model.tokenizer, "wrong_answers")
        return cls(prompts[0], prompts[1], right, wrong)

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: slice) -> PromptPairs:
        """A slice, as pairs of the same source."""
        ids = (None if ids is None else ids[index] for ids in (self.answers, self.wrong_answers))
        return PromptPairs(self.clean[index], self.corrupt[index], *ids)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each prompt of a pair."""
        return self.clean.lengths

    def attributes(self) -> dict[str, Any]:
        """What a result stores about its pairs."""
        return {"clean": self.clean.attributes(), "corrupt": self.corrupt.attributes()}

    def batches(
        self,
        batch_size: int | None = None,
        cost: BatchCost = BatchCost(),  # noqa: B008  (immutable)
    ) -> Iterator[PairBatch]:
        """The batches that ``Prompts.batches`` makes of either side: equal lengths, so equal batches."""
        sides = (prompts.batches(batch_size, cost) for prompts in (self.clean, self.corrupt))
        for clean, corrupt in zip(*sides, strict=True):
            rows = list(clean.prompts)
            ids = (
                None if ids is None else torch.tensor(ids)[rows] for ids in (self.answers, self.wrong_answers)
            )
            yield PairBatch(clean.tokens, corrupt.tokens, clean.lengths, clean.prompts, *ids)


def _token_ids(tokens: Sequence[int] | None, n_pairs: int, name: str) -> tuple[int, ...] | None:
    if tokens is None:
        return None
    if isinstance(tokens, str) or not all(map(is_whole, tokens)):
        raise InputError(f"{name}: give one token id a pair, or texts to PromptPairs.from_texts")
    if len(tokens) != n_pairs:
        raise InputError(f"{len(tokens)} {name} for {n_pairs} pairs: give one token id a pair")
    return tuple(int(token) for token in tokens)


def _single_tokens(texts: Sequence[str] | None, tokenizer: Any, name: str) -> tuple[int, ...] | None:
    if texts is None:
        return None
    if isinstance(texts, str):
        raise InputError(f"{name} is a single string: give a list, one a pair")
    ids = []
    for pair, text in enumerate(texts):
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(tokens) != 1:
            raise InputError(
                f"{name}, pair {pair}: {text!r} is {len(tokens)} tokens, "
                f"{tokenizer.convert_ids_to_tokens(tokens)}: give one that is a single token, mostly with a "
                f"space in front, or token ids, PromptPairs(clean, corrupt, {name}=[...])"
            )
        ids.append(int(tokens[0]))
    return tuple(ids)
