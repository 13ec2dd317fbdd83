"""A text, texts and token ids stand for prompts; a set of prompts shows itself in three lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import mcr_lens as mcr
from mcr_lens.prompts import as_prompts


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ([1, 5, 6], [(1, 5, 6)]),
        ([[1, 5, 6], [1, 7]], [(1, 5, 6), (1, 7)]),
        (torch.tensor([1, 5, 6]), [(1, 5, 6)]),
        (np.array([[1, 5], [1, 6]]), [(1, 5), (1, 6)]),
        ([torch.tensor([1, 5]), torch.tensor([1, 6, 7])], [(1, 5), (1, 6, 7)]),
    ],
)
def test_token_ids_stand_for_prompts(given: Any, tokens: list[tuple[int, ...]]) -> None:
    assert list(as_prompts(given, None).tokens) == tokens


def test_texts_stand_for_prompts(llama: Any) -> None:
    texts = ["w1 w2 w3", "w4 w5"]
    expected = mcr.Prompts.from_texts(texts, llama)
    assert as_prompts(texts, llama).tokens == expected.tokens
    assert as_prompts(texts[0], llama).tokens == expected.tokens[:1]
    assert as_prompts(expected, llama) is expected
    profile = mcr.profile(llama, texts, progress=False)
    np.testing.assert_array_equal(
        profile["norm_ratio"], mcr.profile(llama, expected, progress=False)["norm_ratio"]
    )


@pytest.mark.parametrize("given", [None, 3, [], {}, [None]])
def test_what_is_no_prompt_is_refused(given: Any, llama: Any) -> None:
    with pytest.raises(mcr.InputError, match=r"give a text, texts, token ids, or Prompts"):
        mcr.profile(llama, given, progress=False)


def test_three_lines_say_what_the_prompts_are() -> None:
    lines = repr(mcr.Prompts.from_tokens([[0, 1, 2, 3, 4, 5, 6, 7], [0, 1]], "by hand")).split("\n")
    assert lines[0] == "Prompts: 2 of 2 to 8 tokens, from by hand"
    assert lines[1].startswith("BOS given; 0 truncated, 0 dropped; digest ")
    assert lines[2] == "first: [0, 1, 2, 3, 4, 5] ..." and len(lines) == 3
