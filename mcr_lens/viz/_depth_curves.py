"""Norm ratio, kappa, entropy and what heads do, over depth."""

from collections.abc import Mapping

import plotly.graph_objects as go

from mcr_lens.results import Profile
from mcr_lens.viz._panels import Curve, Panel, curves_over_depth, profiles_by_name

_ENTROPY = (
    Curve("normalized_entropy", "with the sink token"),
    Curve("normalized_entropy_without_sink", "without the sink token", "dash"),
)
_PANELS = (
    Panel("norm ratio", "sink token / mean of the others", [Curve("norm_ratio", "norm ratio")], "log"),
    Panel("compression by the sink", "kappa", [Curve("sink_compression", "kappa")]),
    Panel("normalized entropy", "0 to 1", _ENTROPY, "share"),
    Panel("sink rate", "fraction of heads", [Curve("sink_rate", "sink rate")], "share"),
    Panel("mixing score", "0 to 1", [Curve("mixing_score", "mixing score")], "share"),
    Panel("identity score", "0 to 1", [Curve("identity_score", "identity score")], "share"),
)


def depth_curves(profiles: Profile | Mapping[str, Profile]) -> go.Figure:
    """Norm ratio, kappa, normalized entropy, sink rate, mixing and identity score over depth.

    kappa is the share of the other tokens' entropy that the sink destroys (``phases.sink_compression``).
    Lines are means over prompts, bands the middle half of the prompts. What belongs to a layer stands at
    the depth that the layer reads. Several profiles are given by name. The phases of the first profile are
    shaded. Profiles with different numbers of layers are drawn over relative depth (0 to 1), without
    phases.

    Raises:
        InputError: for no profile, and for several stacked in one.
    """
    return curves_over_depth(profiles_by_name(profiles, "profile"), _PANELS, phases=True)
