"""Measured values against the theorem's bounds."""

import plotly.graph_objects as go

from mcr_lens.results import Profile
from mcr_lens.viz._panels import COLORS, INK, Curve, Panel, curves_over_depth, profiles_by_name


def _measured(variable: str, bound: str, side: str, color: str) -> list[Curve]:
    return [Curve(variable, "measured"), Curve(bound, side, "dash", color, has_band=False)]


_BOUNDED = ("entropy", "anisotropy", "dominance")
_TIGHTNESS = [
    Curve(f"{name}_tightness", f"tightness, {name}", dash, color)
    for name, dash, color in zip(_BOUNDED, ("solid", "dash", "dot"), (*COLORS[3:5], INK), strict=True)
]
_ENTROPY = _measured("matrix_entropy", "entropy_bound", "upper bound", COLORS[1])
_ANISOTROPY = _measured("anisotropy", "anisotropy_bound", "lower bound", COLORS[2])
_DOMINANCE = _measured("dominance", "dominance_bound", "lower bound", COLORS[2])
_PANELS = (
    Panel("matrix entropy", "nats", _ENTROPY),
    Panel("anisotropy", "0 to 1", _ANISOTROPY, "share"),
    Panel("dominance", "first / rest of the spectrum", _DOMINANCE, "log"),
    Panel("tightness", "1 = the bound is met", _TIGHTNESS, "share"),
)


def bounds(profile: Profile) -> go.Figure:
    """Entropy, anisotropy and dominance over depth, each with the bound that the sink token forces on it.

    The last panel is the tightness, the smaller over the larger of the two: 1 where the bound is met, which
    is where the sink token alone explains the value. Lines are means over prompts, the bands of measured
    values and of tightness the middle half of the prompts. Source: the theorem of section 2.2 in
    arXiv 2510.06477; see ``mcr_lens.metrics.bounds``.

    Raises:
        InputError: for a profile of another estimator than the raw one, which the theorem speaks of, or
            several profiles in one.
    """
    (profile,) = profiles_by_name({"": profile}, "profile").values()
    tightness = {f"{name}_tightness": profile.tightness(name) for name in _BOUNDED}
    return curves_over_depth({"": Profile(profile.data.assign(tightness))}, _PANELS)
