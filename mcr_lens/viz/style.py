"""One look for all figures: told apart with any common colour blindness, readable on light and dark pages."""

import plotly.graph_objects as go

__all__ = ["COLORS", "INK", "faded", "styled"]

# Okabe and Ito's palette.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#808080"


def styled(figure: go.Figure) -> go.Figure:
    """One look for light and dark pages: no background of its own, grey ink."""
    figure.update_layout(
        height=620,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 13},
        margin={"l": 60, "r": 20, "t": 60, "b": 60},
        legend={"orientation": "h", "y": -0.12, "x": 0},
    )
    figure.update_xaxes(gridcolor="rgba(128,128,128,0.25)", zeroline=False, linecolor=INK)
    # Titles of axes no larger than the labels: on a narrow page they would run into each other.
    figure.update_xaxes(title_font_size=13)
    figure.update_yaxes(title_font_size=13)
    # Behind the labels of the ticks, also where these are turned.
    figure.update_xaxes(title_standoff=10, automargin=True)
    figure.update_yaxes(gridcolor="rgba(128,128,128,0.25)", zeroline=False, linecolor=INK)
    return figure


def faded(color: str) -> str:
    """A ``#rrggbb`` colour for the band around a line."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"
