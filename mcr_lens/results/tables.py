"""Numbers and tables as they are shown: in a terminal, a notebook and a report alike."""

from numbers import Integral

import numpy as np
import pandas as pd

__all__ = ["as_text", "cells", "count", "number", "to_html", "to_markdown", "to_text"]


def number(value: float) -> str:
    """Three decimals or none; powers of ten below 0.0005 and from a million on; NaN is blank."""
    if value != value:
        return ""
    size = abs(value)
    if 0 < size < 5e-4:
        return f"{value:.1e}"
    if size == float("inf") or size < 1e3:
        return f"{value:.3f}"
    return f"{value:,.0f}" if size < 1e6 else f"{value:.2e}"


def count(n: int, noun: str) -> str:
    """A number of things in words: "1 prompt", "1,319 prompts"."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The cells of a table as they are shown: text and whole numbers as such, what is missing blank."""
    columns = {place: _column(table.iloc[:, place]) for place in range(table.shape[1])}
    cells = pd.DataFrame(columns, table.index, dtype=object)  # text may hold what Arrow cannot
    return cells.set_axis(table.columns, axis="columns")


def to_text(table: pd.DataFrame) -> str:
    """A table for a terminal, every column of it."""
    return as_text(table).to_string()


def to_html(table: pd.DataFrame) -> str:
    """A table for a page; names and texts are escaped."""
    return as_text(table).to_html(border=0)


def to_markdown(table: pd.DataFrame) -> str:
    """A table for a Markdown page, the index first."""
    names, *rows = cells(table)
    rule = ["---", *["---:"] * len(table.columns)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (names, rule, *rows))


def cells(table: pd.DataFrame) -> list[list[str]]:
    """A table row by row as texts: first the names of its columns; in each row its index comes first."""
    names = [str(name).replace("_", " ") for name in (table.index.name or "", *table.columns)]
    return [names, *([str(cell) for cell in row] for row in as_text(table).itertuples(name=None))]


def _column(values: pd.Series) -> list[str]:
    return [_cell(value) if is_there else "" for value, is_there in zip(values, values.notna(), strict=True)]


def _cell(value: object) -> str:
    if isinstance(value, str | bool | np.bool_):
        return str(value)
    return f"{value:,}" if isinstance(value, Integral) else number(float(value))  # type: ignore[arg-type]
