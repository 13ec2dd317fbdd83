"""Dose and response of an ablation study."""

from __future__ import annotations

import plotly.graph_objects as go

import mcr_lens as mcr
from mcr_lens.viz._panels import INK, Panel, add_curve, curve_style, empty_panels, finished, place

_PANELS = {
    "norm_ratio": Panel("norm ratio", "sink token / mean of the others", scale="log"),
    "normalized_entropy_without_sink": Panel("entropy of the other tokens", "0 to 1", scale="share"),
    "sink_rate": Panel("sink rate", "fraction of heads", scale="share"),
    "loss": Panel("loss of the last depth", "nats a token"),
}


def dose_response(study: mcr.experiments.AblationStudy) -> go.Figure:
    """Norm ratio, the others' entropy and sinks where the baseline is compressed, and the loss, by dose.

    Lines are means over prompts, bands their bootstrap intervals; treatments in colour, controls dotted.
    """
    curves, panels = study.dose_curves(), list(_PANELS.values())
    figure = empty_panels(panels)
    number = {"treatment": 0, "control": 0}
    for arm, kind in study.kinds().items():
        style = curve_style(number[kind], arm)
        if kind == "control":
            style["line"] = {"color": INK, "dash": ("dot", "dashdot")[number[kind] % 2], "width": 2}
        number[kind] += 1
        for panel, outcome in enumerate(_PANELS):
            curve = curves[outcome].sel(arm=arm).to_dataset("estimate")
            style["showlegend"] = panel == 0
            add_curve(figure, curves.dose, curve, style, place(panel), "dose", curves.sizes["arm"])
    return finished(figure, panels, "dose (share removed; 0 = untouched)")
