"""Metrics of logits: what a patch is judged by, one number a prompt.

A metric is any function ``(logits [batch, pos, d_vocab], pairs) -> [batch]``, where ``pairs`` is the
``PairBatch`` that the logits belong to. Rows behind a prompt's last real token are padding and hold NaN:
``logits_at`` picks the right one. With padding a metric is called twice, to see that it reads none.
For another position than the last, ``functools.partial(logit_difference, position=-3)``.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.experiments.patching.prompt_pairs import PairBatch
from mcr_lens.metrics import prediction

__all__ = ["LogitMetric", "answer_loss", "kl_divergence", "logit_difference", "logits_at"]

LogitMetric = Callable[[Tensor, PairBatch], Tensor]


def logits_at(
    logits: Float[Tensor, "batch pos d_vocab"], lengths: Int[Tensor, "batch"], position: int = -1
) -> Float[Tensor, "batch d_vocab"]:
    """Logits at one position of each prompt, in float32 or better.

    Args:
        lengths: real tokens of each prompt.
        position: of the prompt; a negative one counts from its last real token.

    Raises:
        InputError: for a position that a prompt does not have.

    Example:
        >>> logits = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [0.0]]])
        >>> logits_at(logits, torch.tensor([3, 2])).flatten()
        tensor([3., 5.])
    """
    at = lengths + position if position < 0 else torch.full_like(lengths, position)
    if bool(((at < 0) | (at >= lengths)).any()):
        shortest = int(lengths.min())
        raise InputError(
            f"metric: position {position} in a prompt of {shortest} tokens: "
            f"use 0..{shortest - 1}, or -1 for the last"
        )
    rows = logits[torch.arange(len(at)), at]
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def logit_difference(
    logits: Float[Tensor, "batch pos d_vocab"], pairs: PairBatch, position: int = -1
) -> Float[Tensor, "batch"]:
    """``logit(answer) - logit(wrong answer)``: the log of how much likelier the answer is, in nats.

    Raises:
        InputError: for pairs without answers or wrong answers.

    Example:
        >>> ids = torch.tensor([[0, 1]])
        >>> pairs = PairBatch(ids, ids, torch.tensor([2]), (0,), torch.tensor([1]), torch.tensor([2]))
        >>> logit_difference(torch.tensor([[[0.0, 0.0, 0.0], [0.0, 3.0, 1.0]]]), pairs)
        tensor([2.])
    """
    rows = logits_at(logits, pairs.lengths, position)
    right = _picked(rows, pairs.answers, "answers", "logit_difference")
    return right - _picked(rows, pairs.wrong_answers, "wrong_answers", "logit_difference")


def answer_loss(
    logits: Float[Tensor, "batch pos d_vocab"], pairs: PairBatch, position: int = -1
) -> Float[Tensor, "batch"]:
    """``-ln p(answer)``, in nats.

    Raises:
        InputError: for pairs without answers.
    """
    log_p = prediction.log_distribution(logits_at(logits, pairs.lengths, position))
    return -_picked(log_p, pairs.answers, "answers", "answer_loss")


def kl_divergence(logits: Float[Tensor, "batch pos d_vocab"], pairs: PairBatch) -> Float[Tensor, "batch"]:
    """``KL(clean || patched)`` between the next-token distributions at the last real token, in nats.

    It needs no answers: 0 where the patched run says what the clean one says.

    Raises:
        InputError: for pairs without the clean run's logits, which ``activation_patching`` adds.
    """
    if pairs.clean_logits is None:
        raise InputError("kl_divergence compares with pairs.clean_logits, which are missing: set them")
    log_q = prediction.log_distribution(logits_at(logits, pairs.lengths))
    log_p = prediction.log_distribution(pairs.clean_logits.to(log_q.device))
    return prediction.kl_divergence(log_p, log_q)


def _picked(
    rows: Float[Tensor, "batch d_vocab"], ids: Int[Tensor, "batch"] | None, name: str, call: str
) -> Float[Tensor, "batch"]:
    if ids is None:
        raise InputError(
            f"{call} needs {name}: give them to PromptPairs, or use metric=kl_divergence, which needs none"
        )
    return rows.gather(-1, ids.to(rows.device)[:, None])[:, 0]
