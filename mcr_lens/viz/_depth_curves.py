"""Norm ratio, entropy, sink rate and mixing score over depth."""

from collections.abc import Mapping

import plotly.graph_objects as go

import mcr_lens.viz._panels as panels
from mcr_lens.results import Profile

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


def depth_curves(profiles: Profile | Mapping[str, Profile]) -> go.Figure:
    """Norm ratio, normalized entropy, sink rate and mixing score over depth.

    Lines are means over prompts, bands the middle half of the prompts. What belongs to a layer stands at the
    depth that the layer reads. Several profiles are given by name. The phases of the first profile are
    shaded. Profiles with different numbers of layers are drawn over relative depth (0 to 1), without phases.

    Raises:
        InputError: for no profile, and for several stacked in one.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> prompts = mcr.load_prompts(mcr.prompts.word_problems(2), model)
        >>> profile = mcr.profile(model, prompts, progress=False)
        >>> len(depth_curves(profile).data) > len(depth_curves({"a": profile, "b": profile}).data) / 2
        True
    """
    named = panels.profiles_by_name(profiles, "profile")
    relative = len({profile.data.sizes["depth"] for profile in named.values()}) > 1
    figure = panels.four_panels([(quantity, unit) for quantity, unit, _ in _PANELS])
    for number, (name, profile) in enumerate(named.items()):
        for panel, (*_, curves) in enumerate(_PANELS):
            for variable, label, dash in curves:
                if not panels.has_curve(profile, variable):
                    continue
                style = panels.curve_style(number, label, dash) | {"showlegend": len(curves) > 1}
                if name:  # the legend names the profiles once, and their dashed curves apart
                    style["name"] = name if dash == "solid" else f"{name}, {label}"
                    style["showlegend"] = panel == 0 or dash != "solid"
                curve = profile.over_prompts(variable)
                (along,) = curve["mean"].dims
                depth = curve[along].values
                x = depth / (profile.data.sizes["depth"] - 1) if relative else depth
                at = "relative depth" if relative else str(along)
                panels.add_curve(figure, x, curve, style, panels.place(panel), at, len(named))
    if not relative:
        first, profile = next(iter(named.items()))
        panels.shade_phases(figure, profile.phases(confidence=None), len(_PANELS), first)
    panels.log_axis(figure, 0)
    panels.shares(figure, 1, 2, 3)
    panels.depth_axis(figure, relative)
    return panels.styled(figure)
