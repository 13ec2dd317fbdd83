"""The columns that later queries attend to: as the oracle has them, in blocks or whole; none by mistake."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import patterns
from oracle import later_attention_oracle, top_columns_oracle

from mcr_lens.metrics import AttentionState
from mcr_lens.metrics.attention import later_attention, sink_attention, top_columns


@settings(max_examples=200)
@given(patterns(max_tokens=24), st.lists(st.integers(1, 23), max_size=3), st.booleans())
def test_blocks_in_any_order_equal_the_oracle(
    drawn: tuple[np.ndarray, int, int | None], cuts: list[int], drop_old_keys: bool
) -> None:
    pattern, _, window = drawn
    tokens = pattern.shape[-1]
    states = []
    for start, stop in pairwise([0, *sorted({cut for cut in cuts if cut < tokens}), tokens]):
        state = AttentionState(torch.tensor([tokens]), 0, window)
        first_key = max(0, start - window + 1) if window and drop_old_keys else 0
        state.update(torch.from_numpy(pattern)[None, :, start:stop, first_key:stop], start, first_key)
        states.append(state)
    merged = states[-1]
    for state in states[:-1]:
        merged = merged.merge(state)
    for head, found in zip(pattern, merged.later_attention()[0], strict=True):
        np.testing.assert_allclose(found, later_attention_oracle(head, window), rtol=1e-4, atol=1e-6)
    position, attention = merged.top_columns()
    expected = top_columns_oracle(pattern, window)["top_column_attention"]
    # Of columns of equal strength either may be named: what counts is the strength of each rank.
    strength = np.nan_to_num(attention[0].numpy()).max(1)
    np.testing.assert_allclose(strength, np.nan_to_num(expected).max(1), rtol=1e-4, atol=1e-9)
    named = position[0][position[0] >= 0].tolist()
    assert len(set(named)) == len(named)
    for rank, k in enumerate(named):
        column = [later_attention_oracle(head, window)[k] for head in pattern]
        np.testing.assert_allclose(attention[0, rank], column, rtol=1e-4, atol=1e-6)


def test_ragged_prompts_and_the_sink_position() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 2, 30, 30, generator=generator)
    pattern = scores.masked_fill(torch.ones(30, 30).triu(1).bool(), -torch.inf).softmax(-1)
    lengths = torch.tensor([30, 9, 8])
    for sink in (0, 3):
        found = later_attention(pattern, lengths)[:1, :, sink]
        torch.testing.assert_close(found, sink_attention(pattern, lengths, sink)[:1])
    position = top_columns(pattern, lengths).position
    assert (position[0] >= 0).all()
    assert position[1].tolist() == [0, -1, -1, -1]  # one position with 8 queries after it
    assert position[2].tolist() == [-1] * 4


def test_the_sink_of_one_head_is_not_lost_among_many() -> None:
    uniform = torch.ones(40, 40).tril() / torch.arange(1, 41)[:, None]
    heads = uniform.repeat(16, 1, 1)
    heads[5] = 0.0
    heads[5, :, 7] = 1.0
    heads[5, :7] = uniform[:7]
    position, attention = top_columns(heads[None].tril())
    assert int(position[0, 0]) == 7
    assert attention[0, 0].argmax() == 5 and float(attention[0, 0, 5]) == 1.0


@pytest.mark.parametrize("shift", [0, 1, 2, 7])
@pytest.mark.parametrize("tokens", [10, 33])
def test_a_head_that_looks_back_by_a_fixed_step_gives_no_column_much(shift: int, tokens: int) -> None:
    pattern = torch.eye(tokens).roll(-shift, 1).tril()
    pattern[range(shift), range(shift)] = 1.0
    _, attention = top_columns(pattern[None, None])
    assert float(attention.nan_to_num().max()) <= 1 / 8


def test_a_broken_head_has_no_column() -> None:
    pattern = torch.full((1, 1, 20, 20), math.nan)
    position, attention = top_columns(pattern)
    assert position.tolist() == [[-1] * 4]
    assert attention.isnan().all()


def test_float64_patterns_keep_their_precision() -> None:
    pattern = torch.rand(1, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).tril()
    pattern = pattern / pattern.sum(-1, keepdim=True)
    found = later_attention(pattern)[0, 0].numpy()
    expected = later_attention_oracle(pattern[0, 0].numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_the_sink_of_one_head_of_many_is_kept_among_columns_that_all_attend_to_a_little() -> None:
    pattern = torch.zeros(1, 32, 24, 24)
    pattern[..., 0] = 1.0
    pattern[:, :, 5:, :5] = 0.2
    pattern[:, 5, 12:] = 0.0
    pattern[:, 5, 12:, 9] = 0.9
    pattern[:, 5, 12:, 0] = 0.1
    assert 9 in top_columns(pattern).position[0].tolist()
