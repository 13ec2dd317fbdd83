"""Tables and sentences that fit the terminal; numbers are never cut."""

from __future__ import annotations

import pandas as pd
import pytest

from mcr_lens.cli import show
from mcr_lens.results.tables import number

TABLE = pd.DataFrame(
    {"norm_ratio": [14.2, 0.7], "normalized_entropy_without_sink": [0.79, float("nan")], "loss": [2.4, 1e7]},
    index=pd.Index(["baseline", "control: other token"], name="arm"),
)


@pytest.mark.parametrize("width", [40, 51, 52, 61, 70, 80, 100, None])
def test_no_cell_is_cut_and_no_table_is_wider_than_need_be(
    width: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(show, "_terminal_width", lambda: width)
    show.show_table("Title", TABLE)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "Title"
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert rows == [
        ["baseline", "14.200", "0.790", "2.400"],
        ["control: other token", "0.700", "", "1.00e+07"],
    ]
    words = " ".join(line.replace("┃", " ") for line in lines if line.startswith("┃")).split()
    assert sorted(words) == sorted("arm norm ratio normalized entropy without sink loss".split())
    # The narrowest: cells of 20, 6, 10 and 8 characters between five lines.
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= max(width or 120, 20 + 6 + 10 + 8 + 5)


def test_a_wide_terminal_folds_no_header(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(show, "_terminal_width", lambda: 100)
    show.show_table("Title", TABLE)
    assert "normalized entropy without sink" in capsys.readouterr().out


def test_sentences_are_folded_between_words_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "The first token's norm is 1.4 times the mean of the others at depth 0 -> 17.2 at depth 2."
    show.show_list([sentence])
    assert capsys.readouterr().out == f"- {sentence}\n"
    monkeypatch.setattr(show, "_terminal_width", lambda: 40)
    show.show_list([sentence])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1
    assert all(len(line) <= 40 for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])
    assert " ".join(line[2:] for line in lines) == sentence


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (-2.0, "-2.000"),
        (999.9, "999.900"),
        (12345.6, "12,346"),
        (3.4e7, "3.40e+07"),
        (float("inf"), "inf"),
        (float("nan"), ""),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
