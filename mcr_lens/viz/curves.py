"""Curves over depth (plotly). Every number comes from a profile; nothing is measured here."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from mcr_lens.errors import InputError
from mcr_lens.results import Profile
from mcr_lens.viz.bands import add_band
from mcr_lens.viz.panels import four_panels, log_axis, place
from mcr_lens.viz.phase_bands import shade_phases
from mcr_lens.viz.style import COLORS, styled

__all__ = ["depth_curves"]

# Quantity, unit, and the curves of each panel: (variable, its name in the legend, dash).
_PANELS = (
    ("norm ratio", "sink token / mean of the others", (("norm_ratio", "norm ratio", "solid"),)),
    (
        "normalized entropy",
        "0 to 1",
        (
            ("normalized_entropy", "with the sink token", "solid"),
            ("normalized_entropy_without_sink", "without the sink token", "dash"),
        ),
    ),
    ("sink rate", "fraction of heads", (("sink_rate", "sink rate", "solid"),)),
    ("mixing score", "0 to 1", (("mixing_score", "mixing score", "solid"),)),
)

# More models than colours are told apart by their markers.
_SYMBOLS = ("circle", "square", "diamond", "cross")


def depth_curves(profiles: Profile | Mapping[str, Profile]) -> go.Figure:
    """Norm ratio, normalized entropy, sink rate and mixing score over depth.

    Lines are means over prompts, bands the middle half of the prompts. One profile is drawn over
    its depths, its phases shaded; several, given by name, over relative depth (0 to 1). What belongs to a
    layer stands at the depth that the layer reads.

    Raises:
        InputError: when there is no profile.
    """
    several = not isinstance(profiles, Profile)
    named = dict(profiles) if isinstance(profiles, Mapping) else {"": profiles}
    if not named:
        raise InputError("no profile to draw: give one, or a mapping of name to profile")
    figure = four_panels([(quantity, unit) for quantity, unit, _ in _PANELS])
    for number, (name, profile) in enumerate(named.items()):
        color = COLORS[number % len(COLORS)]
        symbol = _SYMBOLS[number // len(COLORS) % len(_SYMBOLS)]
        for panel, (*_, curves) in enumerate(_PANELS):
            for variable, label, dash in curves:
                if variable not in profile.data and not (
                    variable == "sink_rate" and "sink_score" in profile.data
                ):
                    continue
                style: dict[str, Any] = {"line": {"color": color, "dash": dash, "width": 2}}
                style["marker"] = {"size": 5 + 2 * (symbol != "circle"), "symbol": symbol}
                if several:
                    # The legend names the profiles once, and their dashed curves apart.
                    style["name"] = name if dash == "solid" else f"{name}, {label}"
                    style["showlegend"] = panel == 0 or dash != "solid"
                else:
                    style |= {"name": label, "showlegend": len(curves) > 1}
                _add_curve(figure, profile, variable, style, panel, relative=several)
        if not several:
            found = profile.phases(confidence=None)
            spans = {"mix": found.mix, "compress": found.compress, "refine": found.refine}
            shade_phases(figure, spans, len(_PANELS))
    log_axis(figure, 0)
    for panel in (1, 2, 3):
        figure.update_yaxes(range=[-0.02, 1.02], **place(panel))
    if several:
        figure.update_xaxes(range=[-0.03, 1.03])
    axis = "relative depth" if several else "depth (0 = embeddings)"
    figure.update_xaxes(title_text=axis, row=2)
    return styled(figure)


def _add_curve(
    figure: go.Figure, profile: Profile, variable: str, style: dict[str, Any], panel: int, relative: bool
) -> None:
    """One line with its band in one panel."""
    found = profile.over_prompts(variable)
    (along,) = found["mean"].dims
    depth = found[along].values
    x = depth / (profile.data.sizes["depth"] - 1) if relative else depth
    curve = {part: found[part].values for part in ("mean", "low", "high")}
    add_band(figure, x, curve, style, place(panel), at=str(along))
