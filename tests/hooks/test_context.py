"""A position is a position in the prompt, in every chunk and every batch."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mcr_lens.errors import InputError
from mcr_lens.hooks import BatchContext, current_context, running
from mcr_lens.hooks.interventions.positions import locate, position_tuple


def places(positions: Any, context: BatchContext, batch: int, rows: int) -> list[list[int]]:
    """Prompts, and rows of the block."""
    prompts, _, at = locate(position_tuple(positions, "test"), context, batch, rows, "test")
    return [prompts.tolist(), at.tolist()]


def test_outside_the_engine_a_block_is_the_whole_prompt() -> None:
    context = current_context()
    assert context == BatchContext()
    assert context.prompt_lengths(2, 7).tolist() == [7, 7]
    assert context.ends_with(1)
    assert places(-1, context, 2, 7) == [[0, 1], [6, 6]]


def test_positions_inside_chunks() -> None:
    context = BatchContext(offset=4, lengths=torch.tensor([9, 5, 3]))
    assert places(0, context, 3, 4) == [[], []]
    assert places([[4], [4], []], context, 3, 4) == [[0, 1], [0, 0]]
    assert places(-1, context, 3, 4) == [[1], [0]]
    assert places(-3, context, 3, 4) == [[0], [2]]
    with pytest.raises(InputError, match="position 3 in a prompt of 3 tokens"):
        places(3, context, 3, 4)
    assert places(3, replace(context, grows=True), 3, 8) == [[], []]
    assert not context.ends_with(4)
    assert context.ends_with(5)


def test_positions_under_a_mask_leave_padding_out() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 0, 0, 1, 1]]).bool()
    whole, later = BatchContext(mask=mask), BatchContext(3, mask=mask)
    assert places(0, whole, 3, 5) == [[0, 1, 2], [2, 0, 0]]
    assert places([1, -1], whole, 3, 5) == [[0, 0, 1, 1, 2, 2], [3, 4, 1, 4, 3, 4]]
    assert places(1, later, 3, 2) == [[0, 2], [0, 0]]
    prompts, positions, rows = locate(None, later, 3, 2, "test")
    assert [prompts.tolist(), positions.tolist(), rows.tolist()] == [
        [0, 0, 1, 1, 2, 2],
        [1, 2, 3, 4, 1, 2],
        [0, 1, 0, 1, 0, 1],
    ]


def test_the_context_comes_back_after_an_exception() -> None:
    try:
        with running(BatchContext(offset=3)):
            assert current_context().offset == 3
            raise RuntimeError
    except RuntimeError:
        pass
    assert current_context().offset == 0
