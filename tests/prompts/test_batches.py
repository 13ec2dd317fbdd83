"""Texts to token lists with one BOS; token lists to batches that hold every prompt once."""

from __future__ import annotations

import json
import shutil
from dataclasses import FrozenInstanceError
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mcr_lens as mcr
from mcr_lens.prompts import BatchCost

BOS = 1


def test_bos_first_and_never_twice(llama: Any) -> None:
    prompts = mcr.Prompts.from_texts(["w0 w1", "<bos> w0 w1"], llama)
    assert prompts.tokens == ((BOS, 3, 4), (BOS, 3, 4))
    assert prompts.bos == "prepended"
    assert prompts.first_tokens == (BOS, BOS)
    assert prompts.lengths == (3, 3)
    assert mcr.Prompts.from_texts(["w0 w1"], llama, prepend_bos=True).tokens == ((BOS, 3, 4),)


def test_no_bos_when_told(llama: Any) -> None:
    prompts = mcr.Prompts.from_texts(["w0 w1", "<bos> w0"], llama, prepend_bos=False)
    assert prompts.tokens == ((3, 4), (BOS, 3))
    assert prompts.bos == "in the text"
    assert mcr.Prompts.from_texts(["w0 w1"], llama, prepend_bos=False).bos == "none"


def without_bos(llama: Any) -> Any:
    """A model whose tokenizer knows no BOS and no padding."""

    class Tokenizer:
        bos_token_id = None
        pad_token_id = None

        def __call__(self, texts: list[str], **options: Any) -> Any:
            return llama.tokenizer(texts, **options)

    return SimpleNamespace(tokenizer=Tokenizer())


def test_a_tokenizer_without_bos(llama: Any) -> None:
    model = without_bos(llama)
    prompts = mcr.Prompts.from_texts(["w0 w1"], model)
    assert prompts.tokens == ((3, 4),)
    assert prompts.bos == "none"
    with pytest.raises(mcr.InputError, match="prepend_bos=False"):
        mcr.Prompts.from_texts(["w0 w1"], model, prepend_bos=True)


def test_a_model_without_a_tokenizer() -> None:
    with pytest.raises(mcr.InputError, match="from_tokens"):
        mcr.Prompts.from_texts(["a"], SimpleNamespace(tokenizer=None))
    with pytest.raises(mcr.InputError, match="from_tokens"):
        mcr.Prompts.from_texts(["a"], object())


def test_long_prompts_are_cut_only_when_asked_and_counted(llama: Any) -> None:
    texts = ["w0 w1 w2 w3", "w0", "w0 w1"]
    whole = mcr.Prompts.from_texts(texts, llama)
    assert whole.lengths == (5, 2, 3)
    assert whole.truncated == 0
    cut = mcr.Prompts.from_texts(texts, llama, max_tokens=3)
    assert cut.tokens == ((BOS, 3, 4), (BOS, 3), (BOS, 3, 4))
    assert cut.truncated == 1
    with pytest.raises(mcr.InputError, match="max_tokens = 1"):
        mcr.Prompts.from_texts(texts, llama, max_tokens=1)


def test_short_texts_are_dropped_and_counted(llama: Any) -> None:
    prompts = mcr.Prompts.from_texts(["", "w0 w1", "   "], llama)
    assert prompts.tokens == ((BOS, 3, 4),)
    assert prompts.dropped == 2
    with pytest.raises(mcr.InputError, match="no text of these"):
        mcr.Prompts.from_texts(["", " "], llama, source="these")
    with pytest.raises(mcr.InputError, match="no text of these"):
        mcr.Prompts.from_texts([], llama, source="these")


def test_a_single_string_is_not_a_list_of_letters(llama: Any) -> None:
    with pytest.raises(mcr.InputError, match=r"\[text\]"):
        mcr.Prompts.from_texts("w0 w1", llama)


@pytest.mark.parametrize(
    "tokens",
    [[[5, 6, 7], [8, 9]], ((5, 6, 7), (8, 9)), [np.array([5, 6, 7]), np.array([8, 9])]],
)
def test_tokens_as_they_are(tokens: Any) -> None:
    prompts = mcr.Prompts.from_tokens(tokens)
    assert prompts.tokens == ((5, 6, 7), (8, 9))
    assert prompts.bos == "given"
    assert len(prompts) == 2


def test_a_tensor_of_tokens() -> None:
    prompts = mcr.Prompts.from_tokens(torch.tensor([[5, 6], [7, 8]]))
    assert prompts.tokens == ((5, 6), (7, 8))
    assert all(type(token) is int for row in prompts.tokens for token in row)


@pytest.mark.parametrize(
    "tokens",
    [
        [1, 2, 3],
        torch.tensor([1, 2, 3]),
        torch.tensor([[1.5, 2.0]]),
        torch.tensor(3),
        [[1.5, 2.5]],
        ["12", "34"],
        [None, None],
        "12",
    ],
)
def test_what_is_no_list_of_token_lists(tokens: Any) -> None:
    with pytest.raises(mcr.InputError, match="lists of token ids"):
        mcr.Prompts.from_tokens(tokens)


def test_prompts_of_one_token_or_none() -> None:
    with pytest.raises(mcr.InputError, match=r"prompt 1 .* 1 token"):
        mcr.Prompts.from_tokens([[1, 2], [3]])
    with pytest.raises(mcr.InputError, match="no prompts in here"):
        mcr.Prompts.from_tokens([], source="here")


def test_slices_keep_the_source() -> None:
    prompts = mcr.Prompts.from_tokens([[1, 2], [3, 4, 5], [6, 7]], source="here")
    assert prompts[1:].tokens == ((3, 4, 5), (6, 7))
    assert prompts[1:].lengths == (3, 2)
    assert prompts[1:].source == "here"
    with pytest.raises(TypeError, match="slices"):
        prompts[0]  # type: ignore[index]
    with pytest.raises(mcr.InputError, match="no prompts"):
        prompts[3:]
    with pytest.raises(FrozenInstanceError):
        prompts.source = "there"  # type: ignore[misc]


def test_the_digest_tells_prompts_apart() -> None:
    a = mcr.Prompts.from_tokens([[1, 2], [3, 4]])
    assert a.digest == mcr.Prompts.from_tokens([[1, 2], [3, 4]], source="other").digest
    others = ([[3, 4], [1, 2]], [[1, 2, 3], [4, 5]], [[1, 2], [3, 5]], [[12, 3], [3, 4]])
    assert len({a.digest, *(mcr.Prompts.from_tokens(tokens).digest for tokens in others)}) == 5


def test_attributes_say_what_was_done(llama: Any) -> None:
    prompts = mcr.Prompts.from_texts(["w0 w1 w2", ""], llama, max_tokens=3, source="here")
    expected = {"source": "here", "bos": "prepended", "truncated": 1, "dropped": 1}
    options = {"max_tokens": 3}
    assert prompts.attributes() == {**expected, "digest": prompts.digest, "options": options}


LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=30)


COSTS = st.builds(
    BatchCost,
    per_batch=st.integers(0, 50),
    max_tokens=st.integers(1, 200),
    boundary=st.none() | st.integers(1, 40),
)


@given(lengths=LENGTHS, batch_size=st.one_of(st.none(), st.integers(1, 7)), cost=COSTS)
@settings(max_examples=100)
def test_batches_hold_every_prompt_once(lengths: list[int], batch_size: int | None, cost: BatchCost) -> None:
    tokens = [[100 * i + j + 1 for j in range(length)] for i, length in enumerate(lengths)]
    prompts = mcr.Prompts.from_tokens(tokens)
    seen: dict[int, list[int]] = {}
    longest_before = 10**9
    for batch in prompts.batches(batch_size, cost):
        width = int(batch.lengths.max())
        assert batch.tokens.shape == (len(batch.prompts), width)
        assert batch.tokens.dtype == torch.int64
        assert width <= longest_before  # longest first
        longest_before = width
        if batch_size is None:
            assert len(batch.prompts) == 1 or batch.tokens.numel() <= cost.max_tokens
        else:
            assert len(batch.prompts) <= batch_size
        for row, length, index in zip(batch.tokens, batch.lengths, batch.prompts, strict=True):
            assert index not in seen
            seen[index] = row[: int(length)].tolist()
            assert (row[int(length) :] == tokens[index][-1]).all()  # nothing the prompt does not hold
    assert [seen[i] for i in range(len(lengths))] == tokens


def test_only_the_last_batch_is_not_full() -> None:
    prompts = mcr.Prompts.from_tokens([[1, 2]] * 7)
    assert [len(batch.prompts) for batch in prompts.batches(3)] == [3, 3, 1]


def cost_of(sizes: list[int], lengths: list[int], cost: BatchCost) -> float:
    """What batches of these sizes cost, longest first; infinite where one is too large."""
    total, rest = 0.0, sorted(lengths, reverse=True)
    for size in sizes:
        batch, rest = rest[:size], rest[size:]
        padded = size * batch[0]
        is_mixed = cost.boundary is not None and batch[-1] <= cost.boundary < batch[0]
        is_allowed = not is_mixed and (size == 1 or padded <= cost.max_tokens)
        total += cost.per_batch + (padded if is_allowed else float("inf"))
    return total


@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=9), cost=COSTS)
def test_no_other_cut_costs_less(lengths: list[int], cost: BatchCost) -> None:
    prompts = mcr.Prompts.from_tokens([[1] * length for length in lengths])
    sizes = [len(batch.prompts) for batch in prompts.batches(cost=cost)]
    n = len(lengths)
    every_cut = (
        [b - a for a, b in pairwise([0, *cuts, n])]
        for number in range(n)
        for cuts in combinations(range(1, n), number)
    )
    least = min(cost_of(cut, lengths, cost) for cut in every_cut)
    assert cost_of(sizes, lengths, cost) == pytest.approx(least)


def test_a_large_model_wants_little_padding_and_a_small_one_few_batches(llama: Any) -> None:
    lengths = [10] * 4 + [12] * 4 + [200]
    prompts = mcr.Prompts.from_tokens([[1] * length for length in lengths])
    assert [len(batch.prompts) for batch in prompts.batches(cost=BatchCost(4, 1000))] == [1, 4, 4]
    assert [len(batch.prompts) for batch in prompts.batches(cost=BatchCost(300, 2000))] == [1, 8]
    small = mcr.models.batch_cost(llama)
    assert small.per_batch > 100
    assert small.max_tokens == 4096


def test_an_eos_in_the_place_of_a_bos_is_no_bos(llama_folder: Path, tmp_path: Path) -> None:
    """For a tokenizer saved without a BOS, TransformerLens calls its EOS the BOS."""
    folder = tmp_path / "without bos"
    shutil.copytree(llama_folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    model = mcr.load_model(folder)
    left_alone = mcr.Prompts.from_texts(["w0 w1"], model)
    assert (left_alone.tokens, left_alone.bos) == (((3, 4),), "none")
    asked_for = mcr.Prompts.from_texts(["w0 w1"], model, prepend_bos=True)
    assert asked_for.bos == "eos prepended"
    assert asked_for.first_tokens == (model.tokenizer.eos_token_id,)


def test_cut_leaves_prompts_of_one_length_and_counts_the_rest() -> None:
    prompts = mcr.Prompts.from_tokens([[1, 2, 3], [1, 2], [4, 5, 6, 7]])
    cut = prompts.cut(3)
    assert cut.tokens == ((1, 2, 3), (4, 5, 6))
    assert (cut.truncated, cut.dropped, cut.options["cut"]) == (1, 1, 3)
    assert cut.attributes()["digest"] != prompts.attributes()["digest"]
    for wrong in (1, 5):
        with pytest.raises(mcr.InputError, match="use a number from 2 to 4"):
            prompts.cut(wrong)
