"""Measured values against the theorem's bounds."""

import plotly.graph_objects as go

import mcr_lens.viz._panels as panels
from mcr_lens.results import Profile

__all__ = ["bounds"]

# Quantity, unit, measured variable, its bound and the side on which it lies.
_PANELS = (
    ("matrix entropy", "nats", "matrix_entropy", "entropy_bound", "upper bound"),
    ("anisotropy", "0 to 1", "anisotropy", "anisotropy_bound", "lower bound"),
    ("dominance", "first / rest of the spectrum", "dominance", "dominance_bound", "lower bound"),
)
_TIGHTNESS = {
    "entropy": {"color": panels.COLORS[3], "dash": "solid"},
    "anisotropy": {"color": panels.COLORS[4], "dash": "dash"},
    "dominance": {"color": panels.INK, "dash": "dot"},
}


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
        >>> prompts = mcr.load_prompts(mcr.prompts.word_problems(2), model)
        >>> figure = bounds(mcr.profile(model, prompts, progress=False))
        >>> [title.text for title in figure.layout.annotations][:2]
        ['matrix entropy', 'anisotropy']
    """
    (profile,) = panels.profiles_by_name({"": profile}, "profile").values()
    tightness = {f"{name}_tightness": profile.tightness(name) for name in _TIGHTNESS}  # type: ignore[arg-type]
    derived = Profile(profile.data.assign(tightness))
    titles = [(quantity, unit) for quantity, unit, *_ in _PANELS]
    figure = panels.four_panels([*titles, ("tightness", "1 = the bound is met")])
    depth = profile.data.depth.values
    for panel, (*_, measured, bound, side) in enumerate(_PANELS):
        style = {
            "name": "measured",
            "line": {"color": panels.COLORS[0], "width": 2},
            "showlegend": panel == 0,
        }
        panels.add_curve(figure, depth, profile.over_prompts(measured), style, panels.place(panel))
        color = panels.COLORS[1] if side == "upper bound" else panels.COLORS[2]
        figure.add_scatter(
            x=depth,
            y=profile.over_prompts(bound)["mean"].values,
            mode="lines",
            name=side,
            legendgroup=side,
            showlegend=panel < 2,
            line={"color": color, "dash": "dash", "width": 2},
            hovertemplate=f"{side}<br>depth %{{x}}: %{{y:.3g}}<extra></extra>",
            **panels.place(panel),
        )
    for name, line in _TIGHTNESS.items():
        style = {"name": f"tightness, {name}", "line": line | {"width": 2}}
        panels.add_curve(figure, depth, derived.over_prompts(f"{name}_tightness"), style, panels.place(3))
    panels.log_axis(figure, 2)
    panels.shares(figure, 1, 3)
    panels.depth_axis(figure)
    return panels.styled(figure)
