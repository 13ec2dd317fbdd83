"""What is typed, turned into what it is for."""

from __future__ import annotations

import pytest

import mcr_lens as mcr
from mcr_lens.cli.options import RunOptions, numbers, words
from mcr_lens.experiments.ablation.arms import ARMS


def test_numbers_with_commas() -> None:
    assert numbers("--layers", "1, 4", int, "1,4") == [1, 4]
    assert numbers("--doses", "0,.25,1", float, "0,1") == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("text", ["", "1,", "1;4", "one", "1.5"])
def test_what_is_no_list_of_numbers_is_named(text: str) -> None:
    with pytest.raises(mcr.InputError, match=r"^--layers .* such as 1,4$"):
        numbers("--layers", text, int, "1,4")


@pytest.mark.parametrize("text", ["nan", "0,inf", "-inf"])
def test_numbers_are_finite(text: str) -> None:
    with pytest.raises(mcr.InputError, match="finite"):
        numbers("--doses", text, float, "0,1")


def test_every_arm_can_be_typed_without_quotes() -> None:
    typed = ",".join(ARMS).replace(" ", "-")
    assert tuple(words(typed)) == ARMS
    assert tuple(words(", ".join(ARMS))) == ARMS


def test_batch_sizes() -> None:
    assert RunOptions().settings() == {"batch_size": "auto", "chunk": None}
    assert RunOptions("3", "4").settings() == {"batch_size": 3, "chunk": 4}
    assert RunOptions(chunk="auto").settings() == {"batch_size": "auto", "chunk": "auto"}
    for text in ("0", "-1", "many", "", "2.5", "²"):
        with pytest.raises(mcr.InputError, match="--batch-size"):
            RunOptions(text)
        with pytest.raises(mcr.InputError, match=r"--chunk .*: use 'auto' or a number"):
            RunOptions(chunk=text)
