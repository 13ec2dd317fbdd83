"""A position is a position in the prompt, in every chunk and every batch."""

import torch

from mcr_lens.hooks import BatchContext, current_context, running


def test_outside_the_engine_a_block_is_the_whole_prompt() -> None:
    context = current_context()
    assert context == BatchContext()
    assert context.prompt_lengths(2, 7).tolist() == [7, 7]
    assert context.ends_with(1)
    assert [index.tolist() for index in context.rows_at(-1, 2, 7)] == [[0, 1], [6, 6]]


def test_positions_inside_chunks() -> None:
    context = BatchContext(offset=4, lengths=torch.tensor([9, 5, 3]))
    assert [index.tolist() for index in context.rows_at(0, 3, 4)] == [[], []]
    assert [index.tolist() for index in context.rows_at(4, 3, 4)] == [[0, 1], [0, 0]]
    assert [index.tolist() for index in context.rows_at(-1, 3, 4)] == [[1], [0]]
    assert [index.tolist() for index in context.rows_at(-4, 3, 4)] == [[0], [1]]
    assert not context.ends_with(4)
    assert context.ends_with(5)


def test_the_context_comes_back_after_an_exception() -> None:
    try:
        with running(BatchContext(offset=3)):
            assert current_context().offset == 3
            raise RuntimeError
    except RuntimeError:
        pass
    assert current_context().offset == 0


def test_whose_rows_they_are() -> None:
    which = torch.tensor([2, 0])
    assert BatchContext(prompts=(7, 8, 9)).owners(which) == (9, 7)
    assert BatchContext().owners(which) is None
