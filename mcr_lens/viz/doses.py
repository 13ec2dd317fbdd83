"""Dose and response of an ablation study."""

from typing import Any

import plotly.graph_objects as go

from mcr_lens.experiments.ablation.study import AblationStudy
from mcr_lens.viz.bands import add_band
from mcr_lens.viz.panels import four_panels, log_axis, place
from mcr_lens.viz.style import COLORS, INK, styled

__all__ = ["dose_response"]

_PANELS = (
    ("norm_ratio", "norm ratio", "sink token / mean of the others"),
    ("normalized_entropy", "normalized entropy", "0 to 1"),
    ("sink_rate", "sink rate", "fraction of heads"),
    ("loss", "loss of the last depth", "nats a token"),
)
_DASHES = {"treatment": ("solid", "dash"), "control": ("dot", "dashdot")}


def dose_response(study: AblationStudy) -> go.Figure:
    """Norm ratio, entropy and sink rate where the baseline is compressed, and the loss, over the dose.

    Lines are means over prompts, bands their bootstrap intervals; treatments in colour, controls dotted.
    """
    curves = study.dose_curves()
    dose = curves.dose.values
    figure = four_panels([(quantity, unit) for _, quantity, unit in _PANELS])
    kinds = dict(zip(study.data.arm.values.tolist(), study.data.kind.values.tolist(), strict=True))
    seen = dict.fromkeys(_DASHES, 0)
    for arm, kind in kinds.items():
        line = _line(kind, seen[kind])
        seen[kind] += 1
        for panel, (outcome, *_) in enumerate(_PANELS):
            of_arm = curves[outcome].sel(arm=arm)
            curve = {part: of_arm.sel(estimate=part).values for part in ("mean", "low", "high")}
            style = {"name": arm, "line": line, "showlegend": panel == 0}
            add_band(figure, dose, curve, style, place(panel), at="dose")
    log_axis(figure, 0)
    # Whole scales: what hardly moves must look like it.
    figure.update_yaxes(range=[-0.02, 1.02], **place(1))
    figure.update_yaxes(range=[-0.02, 1.02], **place(2))
    figure.update_xaxes(title_text="dose (share removed; 0 = untouched)", row=2)
    return styled(figure)


def _line(kind: str, number: int) -> dict[str, Any]:
    """Told apart by colour, then by dash; controls are grey."""
    dashes = _DASHES[kind]
    if kind == "control":
        return {"color": INK, "dash": dashes[number % len(dashes)], "width": 2}
    dash = dashes[number // len(COLORS) % len(dashes)]
    return {"color": COLORS[number % len(COLORS)], "dash": dash, "width": 2}
