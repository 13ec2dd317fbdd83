"""What stands on the page, as plain data: the template turns it into HTML and escapes every string."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Number
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from mcr_lens.viz.inline import View
from mcr_lens.viz.report_page.safe import figure_json

__all__ = [
    "Block",
    "Figure",
    "Heading",
    "More",
    "Note",
    "Section",
    "Shown",
    "Table",
    "Words",
    "number",
    "table",
    "with_interval",
]

_MOST_ROWS = 400


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str
    block: str = field(default="heading", init=False)


@dataclass(frozen=True)
class Words:
    """Sentences, a line each; a pair is a word that stands out, and its sentence."""

    sentences: Sequence[str | tuple[str, str, str]]
    block: str = field(default="words", init=False)


@dataclass(frozen=True)
class Note:
    """A remark: what to mind, or how to read what follows."""

    text: str
    block: str = field(default="note", init=False)


@dataclass(frozen=True)
class Figure:
    """A plotly figure with what it shows, in words."""

    figure: go.Figure
    caption: str
    block: str = field(default="figure", init=False)

    @property
    def json(self) -> Markup:
        """For the inside of a script element."""
        return figure_json(self.figure)

    @property
    def height(self) -> int:
        """In pixels, so that the page does not jump when it is drawn."""
        return int(self.figure.layout.height or 450)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    prose: bool = False  # cells that are sentences, to the left and folded
    block: str = field(default="table", init=False)


@dataclass(frozen=True)
class Shown:
    """A view of one prompt, with its own HTML."""

    view: View
    script: bool
    block: str = field(default="view", init=False)

    @property
    def html(self) -> Markup:
        """What ``View`` escaped."""
        return Markup(self.view.html(script=self.script))


@dataclass(frozen=True)
class More:
    """What is folded away until somebody opens it."""

    title: str
    blocks: "Sequence[Block]"
    block: str = field(default="more", init=False)


Block = Heading | Words | Note | Figure | Table | Shown | More


@dataclass(frozen=True)
class Section:
    """A part of the page, with an entry in its list of contents."""

    title: str
    blocks: Sequence[Block]


def table(frame: pd.DataFrame, caption: str = "") -> Table:
    """A data frame as text, its index first; the first rows of a long one."""
    shown = frame.iloc[:_MOST_ROWS]
    if len(frame) > _MOST_ROWS:
        caption = f"{caption} The first {_MOST_ROWS} of {len(frame):,} rows.".strip()
    names = [frame.index.name or "", *frame.columns]
    columns = [list(shown.index), *(list(column) for _, column in shown.items())]
    cells = [[_cell(value) for value in column] for column in columns]
    return Table([str(name).replace("_", " ") for name in names], list(zip(*cells, strict=True)), caption)


def _cell(value: Any) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return "–"
    return number(value) if isinstance(value, Number) and not isinstance(value, bool) else str(value)


def number(value: Any) -> str:
    """A number as people read it: whole ones as such, others to three decimals or two digits.

    Example:
        >>> number(7), number(0.12345), number(1234.5), number(0.00012), number(3e7)
        ('7', '0.123', '1,234', '1.2e-04', '3e+07')
    """
    if isinstance(value, Integral):
        return f"{int(value):,}"
    size = abs(value)
    if size != size:
        return "–"
    if size >= 1e6:
        return f"{value:.2g}"
    if 0 < size < 5e-4:
        return f"{value:.1e}"
    return f"{value:,.0f}" if size >= 1e3 else f"{value:.3f}"


def with_interval(frame: pd.DataFrame, name: str, low: str, high: str) -> pd.Series:
    """A column with its interval, as ``1.0 [0.8, 1.2]``."""
    columns = (frame[column] for column in (name, low, high))
    return pd.Series(
        [f"{_cell(at)} [{_cell(least)}, {_cell(most)}]" for at, least, most in zip(*columns, strict=True)],
        index=frame.index,
    )


def listed(parts: Iterable[object], none: str) -> str:
    """Parts with commas between, or what is said of none."""
    return ", ".join(map(str, parts)) or none
