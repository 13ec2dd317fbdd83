"""What a notebook shows of a profile: phases in words, a small curve of each quantity, what to beware of."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mcr_lens.caveats import caveats

if TYPE_CHECKING:
    from mcr_lens.result import Profile

__all__ = ["profile_html"]

_WIDTH, _HEIGHT, _MARGIN = 150, 28, 3
_CELL = "text-align:left;padding:2px 12px 2px 0;vertical-align:middle"


def profile_html(profile: Profile) -> str:
    """A profile for a notebook, without script, in the colours of the page; names are text, never markup.

    Several profiles at once show their table only: they have no phases in common.
    """
    said = [f"<b>{html.escape(profile.headline)}</b>", html.escape(profile.phase_line())]
    text = f"<p>{'<br>'.join(said)}</p>"
    if not profile.is_stacked:
        text += _sparklines(profile.summary())
        if found := caveats(profile):
            text += (
                "<p>Beware:</p><ul>" + "".join(f"<li>{html.escape(each)}</li>" for each in found) + "</ul>"
            )
    table = profile.table().to_html(border=0)
    return (
        text + f"<details{' open' * profile.is_stacked}><summary>Table over depth</summary>{table}</details>"
    )


def _sparklines(summary: pd.DataFrame) -> str:
    """A row a quantity: its name, its curve over depth, and where it is least and greatest."""
    rows = []
    for name, curve in summary.items():
        values = curve.to_numpy(dtype=np.float64)
        if not np.isfinite(values).any():
            continue
        low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
        told = f"{values[low]:.3g} at {curve.index[low]}, {values[high]:.3g} at {curve.index[high]}"
        cells = (html.escape(str(name)), _sparkline(values), told)
        rows.append("<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>")
    heads = ("mean over prompts", "over depth", "least and greatest")
    head = "".join(f'<th style="{_CELL}">{each}</th>' for each in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _sparkline(values: np.ndarray) -> str:
    """A curve as SVG, from its least to its greatest value; a value that is not there breaks the line."""
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
