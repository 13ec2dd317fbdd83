"""What a notebook shows of a result: sentences, small curves, what to beware of, and a table."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mcr_lens.results.tables import to_html

if TYPE_CHECKING:
    from mcr_lens.results.result import Result

__all__ = ["result_html", "sparklines"]

_WIDTH, _HEIGHT, _MARGIN = 150, 28, 3
_CELL = "text-align:left;padding:2px 12px 2px 0;vertical-align:middle"


def result_html(result: Result, curves: pd.DataFrame | None = None) -> str:
    """A result for a notebook, without script, in the colours of the page; names are text, never markup.

    Args:
        curves: quantities over depth, drawn small; the table is folded away then.
    """
    lines = [f"<b>{html.escape(result.headline)}</b>", *map(html.escape, result.sentences())]
    page = f"<p>{'<br>'.join(lines)}</p>"
    if curves is not None:
        page += sparklines(curves)
    if caveats := result.caveats():
        page += f"<p>Beware:</p><ul>{''.join(f'<li>{html.escape(each)}</li>' for each in caveats)}</ul>"
    opened = " open" if curves is None else ""
    return f"{page}<details{opened}><summary>Table</summary>{to_html(result.table())}</details>"


def sparklines(curves: pd.DataFrame) -> str:
    """A row a quantity: its name, its curve over depth, and where it is least and greatest."""
    rows = []
    for name, curve in curves.items():
        values = curve.to_numpy(dtype=np.float64)
        if not np.isfinite(values).any():
            continue
        low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
        extremes = f"{values[low]:.3g} at {curve.index[low]}, {values[high]:.3g} at {curve.index[high]}"
        cells = (html.escape(str(name)), _sparkline(values), extremes)
        rows.append("<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>")
    titles = ("mean over prompts", "over depth", "least and greatest")
    head = "".join(f'<th style="{_CELL}">{title}</th>' for title in titles)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _sparkline(values: np.ndarray) -> str:
    """A curve as SVG, from its least to its greatest value; a value that is missing breaks the line."""
    finite = values[np.isfinite(values)]
    span = float(finite.max() - finite.min()) or 1.0
    x = np.linspace(_MARGIN, _WIDTH - _MARGIN, len(values))
    y = _HEIGHT - _MARGIN - (values - finite.min()) / span * (_HEIGHT - 2 * _MARGIN)
    # "M" begins a line, "L" goes on with it: it begins anew behind a gap.
    path, drawing = [], False
    for at, height in zip(x, y, strict=True):
        if np.isfinite(height):
            path.append(f"{'L' if drawing else 'M'}{at:.1f} {height:.1f}")
        drawing = bool(np.isfinite(height))
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
        f'<path d="{" ".join(path)}" fill="none" stroke="#0072B2" stroke-width="1.5"/></svg>'
    )
