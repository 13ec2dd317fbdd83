"""The phases as bands of colour behind curves over depth."""

from collections.abc import Mapping

import plotly.graph_objects as go

__all__ = ["shade_phases"]

_FILL = {"mix": "#56B4E9", "compress": "#E69F00", "refine": "#009E73"}


def shade_phases(figure: go.Figure, spans: Mapping[str, tuple[int, int] | None], panels: int) -> None:
    """Shade the first ``panels`` panels of a figure over depth, and name the phases in the legend.

    Args:
        spans: of ``"mix"``, ``"compress"`` and ``"refine"``, both ends included; ``None``: there is no such
            phase.
    """
    for name, fill in _FILL.items():
        span = spans[name]
        if span is None:
            continue
        edges = {"x0": span[0] - 0.5, "x1": span[1] + 0.5, "y0": 0, "y1": 1}
        look = {"fillcolor": fill, "opacity": 0.15, "line": {"width": 0}, "layer": "below"}
        for panel in range(panels):
            axis = str(panel + 1) if panel else ""
            across = {"xref": f"x{axis}", "yref": f"y{axis} domain"}
            figure.add_shape(type="rect", name=name, **edges, **look, **across)
        key = {"symbol": "square", "size": 12, "color": fill, "opacity": 0.4}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=key, name=name, row=1, col=1)
