"""Pairs of prompts are aligned, and what is not is refused with the first bad pair named."""

from typing import Any

import pytest
import torch

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.experiments import PairBatch, answer_loss, kl_divergence, logit_difference, logits_at


def prompts(*rows: list[int]) -> mcr.Prompts:
    return mcr.Prompts.from_tokens(rows)


def test_texts_become_pairs_with_answers(llama: Any) -> None:
    pairs = mcr.PromptPairs.from_texts(
        ["w3 w4", "w5 w6 w7"], ["w3 w8", "w9 w6 w7"], llama, ["w1", "w2"], ["w3", "w4"]
    )
    assert pairs.clean.tokens == ((1, 6, 7), (1, 8, 9, 10))
    assert pairs.corrupt.tokens == ((1, 6, 11), (1, 12, 9, 10))
    assert (pairs.answers, pairs.wrong_answers) == ((4, 5), (6, 7))
    assert (len(pairs), pairs.lengths) == (2, (3, 4))
    second = pairs[1:]
    assert (second.clean.tokens, second.answers, second.wrong_answers) == (((1, 8, 9, 10),), (5,), (7,))
    assert mcr.PromptPairs.from_texts(["w3"], ["w4"], llama).answers is None
    assert set(pairs.attributes()) == {"clean", "corrupt"}


def test_answers_follow_their_pairs_into_batches() -> None:
    clean = prompts([1, 2], [1, 2, 3, 4], [1, 2, 3])
    corrupt = prompts([1, 5], [1, 5, 3, 4], [1, 5, 3])
    pairs = mcr.PromptPairs(clean, corrupt, (10, 11, 12), (20, 21, 22))
    first, second = pairs.batches(2)
    assert (first.pairs, second.pairs) == ((1, 2), (0,))
    assert first.clean.tolist() == [[1, 2, 3, 4], [1, 2, 3, 3]]
    assert first.corrupt.tolist() == [[1, 5, 3, 4], [1, 5, 3, 3]]
    assert first.lengths.tolist() == [4, 3]
    assert first.answers is not None and first.answers.tolist() == [11, 12]
    assert second.wrong_answers is not None and second.wrong_answers.tolist() == [20]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: mcr.PromptPairs(prompts([1, 2], [1, 3]), prompts([1, 2])),
            "2 clean prompts and 1 corrupt ones",
        ),
        (
            lambda: mcr.PromptPairs(prompts([1, 2], [1, 3, 4]), prompts([1, 2], [1, 3])),
            "pair 1: the clean prompt has 3",
        ),
        (lambda: mcr.PromptPairs([[1, 2]], prompts([1, 2])), "clean is a list: give Prompts"),  # type: ignore[arg-type]
        (lambda: mcr.PromptPairs(prompts([1, 2]), prompts([1, 3]), (1, 2)), "2 answers for 1 pairs"),
        (lambda: mcr.PromptPairs(prompts([1, 2]), prompts([1, 3]), ("w1",)), "answers: give one token id"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_pair_is_refused(build: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_texts_that_cannot_be_pairs(llama: Any) -> None:
    build = mcr.PromptPairs.from_texts
    with pytest.raises(InputError, match=r"answers, pair 1: 'w2 w3' is 2 tokens, \['w2', 'w3'\]"):
        build(["w3", "w4"], ["w5", "w6"], llama, ["w1", "w2 w3"])
    with pytest.raises(InputError, match="wrong_answers, pair 0: '' is 0 tokens"):
        build(["w3"], ["w5"], llama, wrong_answers=[""])
    with pytest.raises(InputError, match="answers is a single string"):
        build(["w3"], ["w5"], llama, "w1")
    # Left out on both sides, other pairs would have been made.
    with pytest.raises(InputError, match="1 of the clean texts have fewer than 2 tokens"):
        build(["", "w4"], ["w5", ""], llama)
    with pytest.raises(InputError, match="1 answers for 2 pairs"):
        build(["w3", "w4"], ["w5", "w6"], llama, ["w1"])


def batch(answers: bool = True, clean_logits: torch.Tensor | None = None) -> PairBatch:
    ids = torch.zeros(2, 3, dtype=torch.int64)
    right, wrong = (torch.tensor([0, 3]), torch.tensor([1, 2])) if answers else (None, None)
    return PairBatch(ids, ids, torch.tensor([3, 2]), (0, 1), right, wrong, clean_logits)


def test_metrics_read_the_last_real_token() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, generator=generator)
    logits[1, 2] = torch.nan  # padding
    last = torch.stack([logits[0, 2], logits[1, 1]])
    assert torch.equal(logits_at(logits, torch.tensor([3, 2])), last)
    expected = torch.stack([last[0, 0] - last[0, 1], last[1, 3] - last[1, 2]])
    assert torch.equal(logit_difference(logits, batch()), expected)
    log_p = last.double().log_softmax(-1)
    torch.testing.assert_close(answer_loss(logits, batch()).double(), -log_p[[0, 1], [0, 3]])
    reference = torch.randn(2, 4, generator=generator)
    log_q, p = log_p, reference.double().softmax(-1)
    divergence = (p * (p.log() - log_q)).sum(-1)
    found = kl_divergence(logits, batch(answers=False, clean_logits=reference))
    torch.testing.assert_close(found.double(), divergence, rtol=1e-5, atol=1e-6)
    assert kl_divergence(logits, batch(clean_logits=last)).tolist() == [0, 0]


def test_metrics_at_another_position() -> None:
    logits = torch.arange(24.0).reshape(2, 3, 4) ** 2
    at = logits[:, 0]
    expected = torch.stack([at[0, 0] - at[0, 1], at[1, 3] - at[1, 2]])
    assert torch.equal(logit_difference(logits, batch(), position=0), expected)
    assert torch.equal(logits_at(logits, torch.tensor([3, 2]), -2), torch.stack([logits[0, 1], logits[1, 0]]))
    for position in (2, -3):
        with pytest.raises(InputError, match=rf"position {position} in a prompt of 2 tokens: use 0\.\.1"):
            answer_loss(logits, batch(), position=position)


def test_metrics_reduce_in_float32() -> None:
    logits = torch.randn(2, 3, 4, dtype=torch.bfloat16)
    pairs = batch(clean_logits=torch.zeros(2, 4))
    for metric in (logit_difference, answer_loss, kl_divergence):
        assert metric(logits, pairs).dtype == torch.float32


def test_metrics_say_what_they_miss() -> None:
    logits = torch.zeros(2, 3, 4)
    for metric in (logit_difference, answer_loss):
        with pytest.raises(InputError, match=f"{metric.__name__} needs answers"):
            metric(logits, batch(answers=False))
    with pytest.raises(InputError, match="clean_logits, which are missing"):
        kl_divergence(logits, batch())
