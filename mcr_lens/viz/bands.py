"""A line with its band: the one shape that all curves of this package have."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from mcr_lens.viz.style import faded

__all__ = ["add_band"]


def add_band(
    figure: go.Figure,
    x: ArrayLike,
    curve: Mapping[str, ArrayLike],
    style: dict[str, Any],
    place: dict[str, int],
    at: str = "x",
) -> None:
    """Draw ``curve["mean"]`` with the band from ``curve["low"]`` to ``curve["high"]`` in one panel.

    Where a number is not known, line and band have a gap.

    Args:
        style: of the line; its ``name`` is what the legend, the hover and the group of the legend say, so
            that a click in the legend hides the band with its line.
        place: ``row`` and ``col`` of the panel.
        at: what the hover calls a place on the x axis.
    """
    group = style["name"]
    x, low, high = np.asarray(x), np.asarray(curve["low"]), np.asarray(curve["high"])
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    band["legendgroup"] = group
    fill = {"fill": "tonexty", "fillcolor": faded(style["line"]["color"])}
    # Stretch by stretch: plotly fills across a gap, to where there is nothing.
    for known in np.ma.clump_unmasked(np.ma.masked_invalid(low + high)):
        figure.add_scatter(x=x[known], y=low[known], **band, **place)
        figure.add_scatter(x=x[known], y=high[known], **band, **fill, **place)
    called = f"{html.escape(group)}<br>" if group else ""
    figure.add_scatter(
        x=x,
        y=curve["mean"],
        mode="lines+markers",
        legendgroup=group,
        hovertemplate=f"{called}{at} %{{x}}: %{{y:.3g}}<extra></extra>",
        **({"marker": {"size": 5}} | style),
        **place,
    )
