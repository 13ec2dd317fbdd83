"""Dose and response of an ablation study."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mcr_lens.experiments.study import AblationStudy
from mcr_lens.viz.style import COLORS, INK, faded, styled

__all__ = ["dose_response"]

_PANELS = (
    ("norm_ratio", "norm of the sink token / mean of the others"),
    ("normalized_entropy", "normalized entropy (0 to 1)"),
    ("sink_rate", "sink rate (fraction of heads)"),
    ("loss", "loss of the last depth (nats a token)"),
)


def dose_response(study: AblationStudy) -> go.Figure:
    """Norm ratio, entropy and sink rate where the baseline is compressed, and the loss, over the dose.

    Lines are means over prompts, bands their bootstrap intervals; treatments in colour, controls dotted.
    """
    curves = study.dose_curves()
    dose = curves.dose.values
    figure = make_subplots(
        rows=2, cols=2, subplot_titles=[title for _, title in _PANELS], vertical_spacing=0.14
    )
    kinds = dict(zip(study.data.arm.values.tolist(), study.data.kind.values.tolist(), strict=True))
    for number, (arm, kind) in enumerate(kinds.items()):
        color = COLORS[number % len(COLORS)] if kind == "treatment" else INK
        dash = "solid" if kind == "treatment" else ("dot", "dashdot")[number % 2]
        for panel, (outcome, _) in enumerate(_PANELS):
            curve = curves[outcome].sel(arm=arm)
            place = {"row": panel // 2 + 1, "col": panel % 2 + 1}
            band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
            band["legendgroup"] = arm
            figure.add_scatter(x=dose, y=curve.sel(estimate="low").values, **band, **place)
            fill = {"fill": "tonexty", "fillcolor": faded(color)}
            figure.add_scatter(x=dose, y=curve.sel(estimate="high").values, **band, **fill, **place)
            figure.add_scatter(
                x=dose,
                y=curve.sel(estimate="mean").values,
                mode="lines+markers",
                name=arm,
                legendgroup=arm,
                showlegend=panel == 0,
                line={"color": color, "dash": dash, "width": 2},
                marker={"size": 5},
                hovertemplate=f"{arm}<br>dose %{{x}}: %{{y:.3g}}<extra></extra>",
                **place,
            )
    figure.update_yaxes(type="log", row=1, col=1)
    figure.update_xaxes(title_text="dose (share removed; 0 = untouched)", row=2)
    return styled(figure)
