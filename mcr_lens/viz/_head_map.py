"""Every head of a model at a glance."""

from typing import Any

import plotly.graph_objects as go

from mcr_lens.errors import InputError
from mcr_lens.results import Profile
from mcr_lens.viz._panels import heat_map

# What stands above the map: the quantity and its unit.
_TITLES = {
    "sink_score": "sink score (mean attention to the sink token, 0 to 1)",
    "sink_attention": "sink attention (mean over later queries, 0 to 1)",
    "col_sum_max": "largest column mean of the attention (0 to 1)",
    "col_sum_argmax": "position of the largest column mean (mean over prompts)",
    "col_sum_concentration": "concentration of the columns (0 to 1)",
    "mixing_score": "mixing score (0 to 1)",
    "identity_score": "identity score (mean attention to itself, 0 to 1)",
    "previous_token_score": "previous-token score (0 to 1)",
    "learned_sink_mass": "attention to the learned sink (0 to 1)",
    "sink_value_ratio": "norm of the sink's value / mean of the others",
    "sink_versus_identity": "sink versus identity (-1 to 1)",
}
_MOST_NUMBERS = 120  # heads, up to which every cell has room for its number


def head_map(profile: Profile, metric: str = "sink_score") -> go.Figure:
    """A heat map, layer by head, of any head metric: means over prompts. Point at a cell to see which it is.

    Scores between 0 and 1 are drawn on that whole range, so that maps of several models can be compared;
    ``sink_versus_identity`` from blue (identity) over white to red (sink), from -1 to 1.

    Args:
        profile: of one model.
        metric: a variable with dimensions prompt, layer and head, or ``"sink_versus_identity"``.

    Raises:
        InputError: for a metric that the profile does not have, or that is not one of heads.
    """
    values = profile.sink_versus_identity() if metric == "sink_versus_identity" else profile[metric]
    heads = {"prompt", "layer", "head"}
    if set(values.dims) != heads:
        maps = [str(name) for name, each in profile.data.items() if set(each.dims) == heads]
        raise InputError(
            f"{metric!r} has dimensions {', '.join(map(str, values.dims))}: a map of heads takes "
            f"{', '.join([*maps, 'sink_versus_identity'])}"
        )
    cells = values.astype(float).mean("prompt").transpose("layer", "head")
    n_layers, n_heads = cells.shape
    title = _TITLES.get(metric, metric.replace("_", " "))
    colors: dict[str, Any] = {"colorscale": "Cividis"}
    if metric == "sink_versus_identity":
        colors = {"colorscale": "RdBu", "reversescale": True, "zmin": -1, "zmax": 1}
    elif "0 to 1" in title:
        colors |= {"zmin": 0, "zmax": 1}
    height = 140 + round(min(34, max(11, 640 / n_layers)) * max(n_layers, 4))
    has_numbers = n_layers * n_heads <= _MOST_NUMBERS and n_heads <= 8
    hover = "layer %{y}, head %{x}<br>%{z:.3g}<extra></extra>"
    axes = {"x": cells["head"].values, "y": cells["layer"].values, "hovertemplate": hover}
    figure = heat_map(cells.values, has_numbers, title, height, **axes, **colors)
    figure.update_xaxes(title_text="head", **_ticks(n_heads, 32))
    return figure.update_yaxes(**_ticks(n_layers, 26))


def _ticks(n: int, most: int) -> dict[str, Any]:
    """At whole numbers, as many as can be read."""
    step = next(step for step in (1, 2, 4, 5, 8, 10, 20, 50, 100, n + 1) if n <= most * step)
    return {"tickmode": "linear", "tick0": 0, "dtick": step, "range": [-0.5, n - 0.5]}
