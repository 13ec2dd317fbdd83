"""Dose and response of an ablation study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

import mcr_lens.viz._panels as panels

if TYPE_CHECKING:
    from mcr_lens.experiments import AblationStudy

__all__ = ["dose_response"]

_PANELS = (
    ("norm_ratio", "norm ratio", "sink token / mean of the others"),
    ("normalized_entropy", "normalized entropy", "0 to 1"),
    ("sink_rate", "sink rate", "fraction of heads"),
    ("loss", "loss of the last depth", "nats a token"),
)


def dose_response(study: AblationStudy) -> go.Figure:
    """Norm ratio, entropy and sink rate where the baseline is compressed, and the loss, over the dose.

    Lines are means over prompts, bands their bootstrap intervals; treatments in colour, controls dotted.
    """
    curves = study.dose_curves()
    figure = panels.four_panels([(quantity, unit) for _, quantity, unit in _PANELS])
    n_arms = curves.sizes["arm"]
    number = {"treatment": 0, "control": 0}
    for arm, kind in zip(study.data.arm.values.tolist(), study.data.kind.values.tolist(), strict=True):
        style = panels.curve_style(number[kind], arm)
        if kind == "control":
            style["line"] = {"color": panels.INK, "dash": ("dot", "dashdot")[number[kind] % 2], "width": 2}
        number[kind] += 1
        for panel, (outcome, *_) in enumerate(_PANELS):
            curve = curves[outcome].sel(arm=arm).to_dataset("estimate")
            legend = {"showlegend": panel == 0}
            panels.add_curve(figure, curves.dose, curve, style | legend, panels.place(panel), "dose", n_arms)
    panels.log_axis(figure, 0)
    panels.shares(figure, 1, 2)
    figure.update_xaxes(title_text="dose (share removed; 0 = untouched)", row=2)
    return panels.styled(figure)
