"""Four panels in a square: the shape that most figures of this package have."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

__all__ = ["four_panels", "log_axis", "place"]

# Wider than this, an axis has ticks at powers of ten alone.
_DECADES = 2.5


def four_panels(titles: Sequence[tuple[str, str]]) -> go.Figure:
    """An empty figure: of each panel the quantity above it, and its unit along the y axis."""
    quantities = [quantity for quantity, _ in titles]
    figure = make_subplots(
        rows=2, cols=2, subplot_titles=quantities, vertical_spacing=0.14, horizontal_spacing=0.13
    )
    for panel, (_, unit) in enumerate(titles):
        figure.update_yaxes(title_text=unit, title_standoff=6, **place(panel))
    return figure


def place(panel: int) -> dict[str, Any]:
    """Row and column of a panel, counted along the rows."""
    return {"row": panel // 2 + 1, "col": panel % 2 + 1}


def log_axis(figure: go.Figure, panel: int) -> None:
    """Make a panel's y axis logarithmic, once all is drawn in it; every tick is a whole number, written out.

    Plotly writes 20 as a small 2 beside the 10.
    """
    traces: Any = figure.select_traces(**place(panel))
    shown = [np.asarray(trace["y"], dtype=float) for trace in traces]
    values = np.concatenate(shown) if shown else np.ones(1)
    values = values[np.isfinite(values) & (values > 0)]
    low, high = np.log10([values.min(), values.max()]) if len(values) else (0.0, 1.0)
    steps = (1,) if high - low > _DECADES else (1, 2, 5)
    # Beyond what is drawn too: there is more to see when the reader zooms out.
    powers = np.arange(np.floor(low) - 1, np.ceil(high) + 2)
    ticks = [step * 10.0**power for power in powers for step in steps]
    axis: dict[str, Any] = {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    figure.update_yaxes(**axis, **place(panel))
