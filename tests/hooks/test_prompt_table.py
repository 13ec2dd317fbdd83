"""Rows arrive in any order and end up in prompt order."""

import numpy as np
import torch

from mcr_lens.hooks import PromptTable


def test_rows_in_any_order() -> None:
    table = PromptTable("layer", 2, trailing=("head",))
    table.add(1, {"score": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, prompts=(2, 0))
    table.add(1, {"score": torch.tensor([[5.0, 6.0]])}, prompts=(1,))
    table.add(0, {"count": torch.tensor([7, 8])}, prompts=(0, 2))
    found = table.dataset()
    assert found.score.dims == ("prompt", "layer", "head")
    assert found["count"].dims == ("prompt", "layer")
    np.testing.assert_array_equal(found.score.sel(layer=1), [[3, 4], [5, 6], [1, 2]])
    assert found.score.sel(layer=0).isnull().all()
    np.testing.assert_array_equal(found["count"].sel(layer=0), [7, -1, 8])


def test_without_prompts_rows_are_the_next_ones() -> None:
    table = PromptTable("depth", 1)
    table.add(0, {"norm": torch.tensor([1.0, 2.0])})
    table.add(0, {"norm": torch.tensor([3.0])})
    assert table.dataset().norm.sel(depth=0).values.tolist() == [1, 2, 3]


def test_nothing_read_is_an_empty_dataset() -> None:
    assert PromptTable("depth", 3).dataset().sizes["prompt"] == 0
