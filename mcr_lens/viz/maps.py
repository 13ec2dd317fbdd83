"""Maps of patching sweeps (plotly). Every number comes from the result; nothing is measured here."""

import html

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mcr_lens.errors import InputError
from mcr_lens.viz.style import styled

__all__ = ["patching_map"]

_LONGEST_LABEL = 14  # characters of a token on the axis


def patching_map(result: xr.Dataset, value: str | None = None, prompt: int | None = None) -> go.Figure:
    """A heat map of an ``activation_patching`` sweep: layer by position, or layer by head.

    Blue is above 0, red below, white 0: the patch did nothing. Positions are labelled with their token where
    all drawn prompts share it, as ``clean→corrupt`` where one prompt is drawn and its pair differs, with ≠
    where every pair does. A place that no prompt has is left blank.

    Args:
        result: from ``activation_patching``.
        value: the variable to draw; ``None``: ``recovered``, or ``lost`` of a noising sweep.
        prompt: draw this one; ``None`` for the mean over prompts.

    Raises:
        InputError: for a variable or prompt that the result does not have, or one that is not a map.
    """
    if value is None:
        value = "lost" if "lost" in result else "recovered"
    across = _across(result, value)
    if prompt is None:
        drawn, shown = result, result[value].mean("prompt")
    elif prompt in result.prompt.values:
        drawn = result.sel(prompt=[prompt])
        shown = drawn[value].isel(prompt=0)
    else:
        raise InputError(f"prompt {prompt} is not in the result: it has {result.prompt.values.tolist()}")
    shown = shown.transpose("layer", across)
    labels, names = _labels(drawn, across)
    figure = go.Figure(
        go.Heatmap(
            z=shown.values,
            x=np.arange(len(labels)),
            y=np.arange(shown.sizes["layer"]),
            text=[[f"layer {layer}, {name}" for name in names] for layer in shown.layer.values],
            hovertemplate="%{text}<br>%{z:.3g}<extra></extra>",
            colorscale="RdBu",
            zmid=0,
            xgap=1,
            ygap=1,
            colorbar={"title": {"text": value, "side": "right"}, "thickness": 14},
        )
    )
    styled(figure)
    narrow = max(len(label) for label in labels) > 2
    turned = {"tickangle": -60, "tickfont": {"size": 11}} if narrow else {}
    figure.update_xaxes(
        title_text=across, tickvals=list(range(len(labels))), ticktext=labels, showgrid=False, **turned
    )
    layers = [str(layer) for layer in shown.layer.values]
    figure.update_yaxes(
        title_text="layer", tickvals=list(range(len(layers))), ticktext=layers, showgrid=False
    )
    figure.update_layout(height=180 + 30 * max(4, len(layers)))
    return figure


def _across(result: xr.Dataset, value: str) -> str:
    """The axis that is swept beside the layer."""
    if value not in result:
        raise InputError(f"no {value!r} in the result: it has {', '.join(map(str, result.data_vars))}")
    others = [str(dim) for dim in result[value].dims if dim not in ("prompt", "layer")]
    if set(result[value].dims) != {"prompt", "layer", *others} or len(others) != 1:
        raise InputError(
            f"{value!r} has dimensions {result[value].dims}: a map has prompt, layer and one more, so sweep "
            "over one, or choose from the other, as in result.sel(head=0)"
        )
    return others[0]


def _labels(result: xr.Dataset, across: str) -> tuple[list[str], list[str]]:
    """Of each place on the axis: what stands below it, and what the hover calls it."""
    places = [str(place) for place in result[across].values]
    names = [f"{across} {place}" for place in places]
    if across != "position" or "text" not in result.coords:
        return places, names
    labels = []
    for i, (place, name) in enumerate(zip(places, names, strict=True)):
        here = result.isel(position=i)
        here = here.isel(prompt=here.token.values >= 0)
        differ = here.token.values != here.clean_token.values
        token, clean = (_shared(here[text].values) for text in ("text", "clean_text"))
        label = place
        if token is not None and clean is not None:
            label = f"{clean}→{token}" if differ.any() else token
            names[i] = f"{name}, token {label}"
        elif differ.all() and len(differ):
            label = f"{place} ≠"
            names[i] = f"{name}, where the pairs differ"
        labels.append(label)
    return labels, names


def _shared(texts: np.ndarray) -> str | None:
    """The token that all prompts have here, ready for a figure; ``None`` where they have several, or none."""
    first = str(texts[0]) if len(texts) else None
    return _shown(first) if first is not None and (texts == first).all() else None


def _shown(token: str) -> str:
    """A token as a figure may show it: cut, whitespace visible, nothing that reads as markup."""
    cut = token if len(token) <= _LONGEST_LABEL else token[: _LONGEST_LABEL - 1] + "…"
    visible = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in cut)
    # A dollar on either side would be set as a formula where MathJax is loaded.
    return html.escape(visible.replace(" ", "␣")).replace("$", "&#36;")
