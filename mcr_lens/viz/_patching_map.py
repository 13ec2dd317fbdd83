"""Maps of patching sweeps."""

from __future__ import annotations

import html

import numpy as np
import plotly.graph_objects as go
import xarray as xr

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.viz._panels import heat_map
from mcr_lens.viz._tokens import visible

_LONGEST_LABEL = 14  # characters of a token on the axis
_MOST_LABELS = 44  # that stand beside each other in a notebook, where a figure is 700 pixels wide
_FEW_COLUMNS = 8  # so few leave room for numbers
_SIDES = {"denoise": "clean into corrupt", "noise": "corrupt into clean"}


def patching_map(
    result: mcr.experiments.PatchingResult | xr.Dataset, value: str | None = None, prompt: int | None = None
) -> go.Figure:
    """A heat map of an ``activation_patching`` sweep: layer by position, layer by head, or by layer alone.

    Blue is above 0, red below, white 0: the patch did nothing. Positions are labelled with their token where
    all drawn prompts share it, as ``clean→corrupt`` where one prompt is drawn and its pair differs, with
    their number in brackets elsewhere, and ≠ where every pair differs. A place that no prompt has is left
    blank. A few columns show their numbers; of very many only some have a label, the others say in the hover
    what they are.

    Args:
        result: from ``activation_patching``.
        value: the variable to draw; ``None``: ``recovered``, or ``lost`` of a noising sweep.
        prompt: draw this one; ``None`` for the mean over prompts.

    Raises:
        InputError: for a variable or prompt that the result does not have, or one that is not a map.
    """
    data = result if isinstance(result, xr.Dataset) else result.data
    value = value or ("lost" if "lost" in data else "recovered")
    data, across = _as_map(data, value)
    if prompt is not None:
        if prompt not in data.prompt.values:
            raise InputError(f"prompt {prompt} is not in the result: it has {data.prompt.values.tolist()}")
        data = data.sel(prompt=[prompt])
    cells = data[value].mean("prompt").transpose("layer", across)
    labels, names = _labels(data, across)
    layers = [str(layer) for layer in cells.layer.values]
    is_narrow, title = len(labels) <= _FEW_COLUMNS, _title(data, prompt)
    figure = heat_map(
        cells.values,
        is_narrow,
        title,
        180 + max(120, round(min(30, max(16, 900 / len(layers))) * len(layers))),
        x=np.arange(len(labels)),
        y=np.arange(len(layers)),
        text=[[f"layer {layer}, {name}" for name in names] for layer in layers],
        hovertemplate="%{text}<br>%{z:.3g}<extra></extra>",
        colorscale="RdBu",
        zmid=0,
        colorbar={"title": {"text": f"{value}<br>&nbsp;", "side": "top"}},
    )
    if not title:
        figure.update_layout(margin_t=20)
    places = _labelled(labels)
    longest = max(len(labels[i]) for i in places)
    ticks = {"tickvals": places, "ticktext": [labels[i] for i in places]}
    if longest > 2 and not is_narrow:
        ticks |= {"tickangle": -60 if longest <= _LONGEST_LABEL else -90, "tickfont": {"size": 11}}
    figure.update_xaxes(title_text=across, **ticks)
    return figure.update_yaxes(tickvals=list(range(len(layers))), ticktext=layers)


def _title(result: xr.Dataset, prompt: int | None) -> str:
    """What was patched, where the result says it."""
    if "hook" not in result.attrs or result.attrs.get("direction") not in _SIDES:
        return ""
    n = result.sizes["prompt"]
    pairs = f"pair {prompt}" if prompt is not None else "1 pair" if n == 1 else f"mean of {n} pairs"
    return html.escape(f"{result.attrs['hook']}, {_SIDES[result.attrs['direction']]}, {pairs}")


def _as_map(result: xr.Dataset, value: str) -> tuple[xr.Dataset, str]:
    """The result, and the axis that is swept beside the layer: of one place where there is none."""
    if value not in result:
        raise InputError(f"no {value!r} in the result: it has {', '.join(map(str, result.data_vars))}")
    dims = result[value].dims
    others = [str(dim) for dim in dims if dim not in ("prompt", "layer")]
    if not {"prompt", "layer"} <= set(dims) or len(others) > 1:
        raise InputError(
            f"{value!r} has dimensions {dims}: a map has prompt, layer and one more, so sweep "
            "over one, or choose from the other, as in result.sel(head=0)"
        )
    if others:
        return result, others[0]
    at = result.attrs.get("positions", "all")
    together = at if isinstance(at, str) else ", ".join(map(str, at))
    return result.expand_dims({"positions": [together]}), "positions"


def _labels(result: xr.Dataset, across: str) -> tuple[list[str], list[str]]:
    """Of each place on the axis: what stands below it, and what the hover calls it."""
    places = [str(place) for place in result[across].values]
    names = [f"{across} {place}" for place in places]
    if across != "position" or "text" not in result.coords:
        return places, names
    labels = []
    for i, place in enumerate(places):
        here = result.isel(position=i)
        here = here.isel(prompt=here.token.values >= 0)
        differ = here.token.values != here.clean_token.values
        token, clean = (_shared(here[text].values) for text in ("text", "clean_text"))
        # In brackets: tokens are numbers too.
        label = f"[{place}]"
        if token is not None and clean is not None:
            label = f"{clean}→{token}" if differ.any() else token
            names[i] += f", token {label}"
        elif differ.all() and len(differ):
            label += " ≠"
            names[i] += ", where the pairs differ"
        labels.append(label)
    if not any(", token " in name for name in names):
        labels = [label.replace("[", "").replace("]", "") for label in labels]
    return labels, names


def _labelled(labels: list[str]) -> list[int]:
    """The places that get their label: as many as can be read, first those where a pair differs."""
    step = -(-len(labels) // _MOST_LABELS)
    marked = [i for i, label in enumerate(labels) if label.endswith("≠") or "→" in label]
    places: list[int] = []
    for i in [*marked, *range(0, len(labels), step)]:
        if all(abs(i - other) >= step for other in places):
            places.append(i)
    return sorted(places)


def _shared(texts: np.ndarray) -> str | None:
    """The token that all prompts have here, ready for a figure; ``None`` where they have several, or none."""
    if not len(texts) or (texts != texts[0]).any():
        return None
    # A dollar on either side would be set as a formula where MathJax is loaded.
    return html.escape(visible(str(texts[0]), _LONGEST_LABEL)).replace("$", "&#36;")
