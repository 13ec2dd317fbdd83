"""Measured values against the theorem's bounds (plotly). Every number comes from the profile."""

from typing import Any

import plotly.graph_objects as go

from mcr_lens.errors import InputError
from mcr_lens.results import Profile
from mcr_lens.viz.bands import add_band
from mcr_lens.viz.panels import four_panels, log_axis, place
from mcr_lens.viz.style import COLORS, INK, styled

__all__ = ["bounds"]

# Quantity, unit, measured variable, its bound and the side on which it lies, powers of ten or not.
_PANELS = (
    ("matrix entropy", "nats", "matrix_entropy", "entropy_bound", "upper bound", False),
    ("anisotropy", "0 to 1", "anisotropy", "anisotropy_bound", "lower bound", False),
    ("dominance", "first / rest of the spectrum", "dominance", "dominance_bound", "lower bound", True),
)
_NAMES = ("entropy", "anisotropy", "dominance")


def bounds(profile: Profile) -> go.Figure:
    """Entropy, anisotropy and dominance over depth, each with the bound that the sink token forces on it.

    The last panel is the tightness, the smaller over the larger of the two: 1 where the bound is met, which
    is where the sink token alone explains the value. Lines are means over prompts, the bands of measured
    values and of tightness the middle half of the prompts. Source: the theorem of section 2.2 in
    arXiv 2510.06477; see ``mcr_lens.metrics.bounds``.

    Raises:
        InputError: for a profile of another estimator than the raw one, which the theorem speaks of, or
            several profiles in one.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> prompts = mcr.load_prompts(mcr.word_problems(2), model)
        >>> figure = bounds(mcr.profile(model, prompts, progress=False))
        >>> [title.text for title in figure.layout.annotations][:2]
        ['matrix entropy', 'anisotropy']
    """
    stacked = [str(dim) for dim in profile.data["norm_ratio"].dims if dim not in ("prompt", "depth")]
    if stacked:
        raise InputError(
            f"several profiles along {stacked[0]!r}: select one, as in data.sel({stacked[0]}=...)"
        )
    tightness = {name: profile.tightness(name) for name in _NAMES}
    titles = [(quantity, unit) for quantity, unit, *_ in _PANELS]
    figure = four_panels([*titles, ("tightness", "1 = the bound is met")])
    depth = profile.data.depth.values
    for panel, (*_, measured, bound, side, powers) in enumerate(_PANELS):
        line: dict[str, Any] = {"color": COLORS[0], "width": 2}
        style = {"name": "measured", "line": line, "showlegend": panel == 0}
        add_band(figure, depth, _curve(profile, measured), style, place(panel), at="depth")
        color = COLORS[1] if side == "upper bound" else COLORS[2]
        figure.add_scatter(
            x=depth,
            y=profile.over_prompts(bound)["mean"].values,
            mode="lines",
            name=side,
            legendgroup=side,
            showlegend=panel < 2,
            line={"color": color, "dash": "dash", "width": 2},
            hovertemplate=f"{side}<br>depth %{{x}}: %{{y:.3g}}<extra></extra>",
            **place(panel),
        )
        if powers:
            log_axis(figure, panel)
    for number, name in enumerate(_NAMES):
        color, dash = (COLORS[3], COLORS[4], INK)[number], ("solid", "dash", "dot")[number]
        style = {"name": f"tightness, {name}", "line": {"color": color, "dash": dash, "width": 2}}
        derived = Profile(profile.data.assign({f"{name}_tightness": tightness[name]}))
        add_band(figure, depth, _curve(derived, f"{name}_tightness"), style, place(3), at="depth")
    figure.update_yaxes(range=[-0.02, 1.02], col=2)
    figure.update_xaxes(title_text="depth (0 = embeddings)", row=2)
    return styled(figure)


def _curve(profile: Profile, name: str) -> dict[str, Any]:
    found = profile.over_prompts(name)
    return {part: found[part].values for part in ("mean", "low", "high")}
