"""Task quality by depth over the phases."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import mcr_lens.viz._panels as panels
from mcr_lens.errors import InputError
from mcr_lens.results import Profile

_UNITS = {"accuracy": "share of units", "loss": "nats a token; less is better"}


def task_depth(quality: pd.DataFrame, profile: Profile | None = None) -> go.Figure:
    """How good each depth is at each use, over the phases; a star marks the best depth.

    Lines are means over units, bands their bootstrap intervals. Probes are dashed.

    Args:
        quality: from ``quality_by_depth``.
        profile: of the same model; its phases are shaded.

    Raises:
        InputError: for another table.
    """
    if not {"use", "kind", "metric", "depth", "quality", "low", "high"} <= set(quality.columns):
        raise InputError(f"no table of quality by depth: columns {', '.join(map(str, quality.columns))}")
    metrics = [metric for metric in _UNITS if metric in set(quality.metric)]
    figure = make_subplots(rows=len(metrics), cols=1, subplot_titles=metrics, vertical_spacing=0.12)
    for number, (name, of_use) in enumerate(quality.groupby("use", sort=False)):
        kind, metric = of_use.kind.iloc[0], of_use.metric.iloc[0]
        panel = {"row": metrics.index(metric) + 1, "col": 1}
        curve = {"mean": of_use.quality, "low": of_use.low, "high": of_use.high}
        style = panels.curve_style(number, str(name), "dash" if kind == "embedding" else "solid")
        panels.add_curve(figure, of_use.depth, curve, style, panel)
        best = of_use.loc[of_use.quality.idxmax() if metric == "accuracy" else of_use.quality.idxmin()]
        figure.add_scatter(
            x=[best.depth],
            y=[best.quality],
            mode="markers",
            marker={"symbol": "star", "size": 13, "color": style["line"]["color"]},
            legendgroup=str(name),
            showlegend=False,
            hovertemplate="best depth %{x}: %{y:.3g}<extra></extra>",
            **panel,
        )
    for row, metric in enumerate(metrics, start=1):
        figure.update_yaxes(title_text=_UNITS[metric], title_standoff=6, row=row)
    if profile is not None and profile.has_phases:
        panels.shade_phases(figure, profile.phases(confidence=None), len(metrics))
    figure.update_xaxes(matches="x")
    figure.update_xaxes(title_text=panels.DEPTH, row=len(metrics))
    return panels.styled(figure).update_layout(height=120 + 280 * len(metrics))
