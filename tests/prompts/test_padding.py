"""Padding of a batch of ids is no text: recognised, or named, and never measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import mcr_lens as mcr

TEXTS = ["w1 w2 w3 w4 w5", "w6 w7"]


def padded(model: Any, pad: int, side: str) -> torch.Tensor:
    rows = [list(row) for row in mcr.Prompts.from_texts(TEXTS, model).tokens]
    longest = max(map(len, rows))
    fill = [[pad] * (longest - len(row)) for row in rows]
    both = zip(rows, fill, strict=True)
    return torch.tensor([row + more if side == "right" else more + row for row, more in both])


@pytest.fixture
def set_padding(llama: Any) -> Iterator[Callable[[str], None]]:
    before = llama.tokenizer.pad_token
    yield lambda token: setattr(llama.tokenizer, "pad_token", token)
    llama.tokenizer.pad_token = before


@pytest.fixture
def padding_alone(llama: Any, set_padding: Callable[[str], None]) -> int:
    """A padding id that means nothing else, as in many tokenizers."""
    set_padding(llama.tokenizer.convert_ids_to_tokens(63))
    return 63


@pytest.mark.parametrize("side", ["right", "left"])
def test_row_3_padding_is_not_measured_as_text(side: str, llama: Any, padding_alone: int) -> None:
    right = mcr.profile(llama, mcr.Prompts.from_texts(TEXTS, llama), progress=False).data
    ids = padded(llama, padding_alone, side)
    forms: list[Any] = [mcr.Prompts.from_tokens(ids), ids, ids.tolist(), ids.numpy()]
    for given in forms:
        with pytest.warns(UserWarning, match=r"1 of 2 rows .* padding id 63") as told:
            measured = mcr.profile(llama, given, progress=False).data
        assert len(told) == 1
        assert "\n" not in str(told[0].message)
        assert measured.n_tokens.values.tolist() == [6, 3]
        assert "63" in measured.attrs["prompts"]["options"]["padding"]
        for name, values in right.data_vars.items():
            np.testing.assert_array_equal(measured[name], values, str(name))


@pytest.mark.parametrize("side", ["right", "left"])
def test_row_3_ids_alone_cannot_tell_padding_from_eos(
    side: str, llama: Any, set_padding: Callable[[str], None]
) -> None:
    eos = llama.tokenizer.eos_token_id
    set_padding(llama.tokenizer.eos_token)
    ids = padded(llama, eos, side)
    with pytest.raises(mcr.InputError, match=r"EOS.*lengths= or attention_mask=") as raised:
        mcr.profile(llama, mcr.Prompts.from_tokens(ids), progress=False)
    assert "\n" not in str(raised.value)
    one = mcr.Prompts.from_tokens(padded(llama, eos, side)[:, -4:] if side == "left" else ids[:, :4])
    with pytest.raises(mcr.InputError, match="ids alone cannot tell"):
        mcr.profile(llama, one, progress=False)  # one token of padding is as wrong
    right = mcr.Prompts.from_texts(TEXTS, llama)
    real = torch.arange(6) < torch.tensor(right.lengths)[:, None]
    mask = (real if side == "right" else real.flip(1)).long()
    named = [mcr.Prompts.from_tokens(ids, attention_mask=mask)]
    if side == "right":
        named.append(mcr.Prompts.from_tokens(ids, lengths=right.lengths))
    for prompts in named:
        assert prompts.tokens == right.tokens
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert mcr.prompts.as_prompts(prompts, llama).tokens == right.tokens
        assert "named by" in prompts.attributes()["options"]["padding"]


def test_one_bos_or_eos_in_every_row_is_text(llama: Any, set_padding: Callable[[str], None]) -> None:
    bos = llama.tokenizer.bos_token_id
    set_padding(llama.tokenizer.bos_token)
    for rows in ([[bos, 4, 5], [bos, 6, 7]], [[bos, 4, bos], [bos, 6, bos]], [[4, 5], [6, 7]]):
        assert mcr.prompts.as_prompts(rows, llama).tokens == tuple(map(tuple, rows))
    # Rows of several lengths are no padded batch.
    ragged = [[bos, bos, 4], [bos, 6]]
    assert mcr.prompts.as_prompts(ragged, llama).tokens == tuple(map(tuple, ragged))


def test_padded_pairs(llama: Any, padding_alone: int) -> None:
    ids = padded(llama, padding_alone, "right")
    clean, corrupt = mcr.Prompts.from_tokens(ids), mcr.Prompts.from_tokens(ids)
    with pytest.warns(UserWarning, match="padding id"):
        result = mcr.activation_patching(
            llama, mcr.PromptPairs(clean, corrupt, (4, 5), (5, 6)), layers=0, progress=False
        )
    assert result.data.n_tokens.values.tolist() == [6, 3]


def test_names_of_padding_that_do_not_fit() -> None:
    ids = [[1, 4, 5], [1, 6, 0]]
    bad: list[tuple[dict[str, Any], str]] = [
        ({"lengths": [3]}, "one a row"),
        ({"lengths": [3, 4]}, "one a row"),
        ({"lengths": [3, 2.5]}, "one a row"),
        ({"attention_mask": [[1, 1, 1]]}, "a 0 or 1 for each"),
        ({"attention_mask": [[1, 1, 1], [1, 1]]}, "a 0 or 1 for each"),
        ({"attention_mask": [[1, 1, 1], [1, 2, 0]]}, "a 0 or 1 for each"),
        ({"attention_mask": [[1, 1, 1], [1, 0, 1]]}, "middle of row 1"),
        ({"attention_mask": [[1, 1, 1], [0, 0, 0]]}, "prompt 1 .* 0 token"),
        ({"lengths": [3, 2], "attention_mask": [[1, 1, 1], [1, 1, 0]]}, "not both"),
    ]
    for options, message in bad:
        with pytest.raises(mcr.InputError, match=message):
            mcr.Prompts.from_tokens(ids, **options)
