"""What a file says, as a page may show it: every string of a saved result may be somebody's attack."""

import html
import json
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.utils import PlotlyJSONEncoder

from mcr_lens.viz.tokens import visible

__all__ = ["figure_json", "plain"]

_LONGEST = 400


def plain(text: object, longest: int = _LONGEST) -> str:
    r"""Prose with all that cannot be seen made visible: controls, text directions, halves of surrogates.

    Markup stays what it is: the page escapes it. Longer texts are cut.

    Example:
        >>> plain("a <b>\u202e name\ud800")
        'a <b>\\u202e name\\ud800'
    """
    cut = str(text)[: longest + 1]
    shown = " ".join(visible(word) for word in cut.split(" "))
    return shown if len(cut) <= longest else shown[: longest - 1] + "…"


def figure_json(figure: go.Figure) -> Markup:
    """A figure as JSON for the inside of a ``<script>``: nothing in it ends the element or reads as markup.

    Plotly takes some markup in names; those of a file are text. What our own figures write in hovers and
    titles is escaped where it is written.
    """
    given: dict[str, Any] = figure.to_plotly_json()
    # The template is plotly's own look, seven kilobytes a figure.
    given["layout"].pop("template", None)
    for trace in given["data"]:
        for part in ("name", "legendgroup"):
            if part in trace:
                trace[part] = html.escape(str(trace[part]))
    packed = json.dumps(_plain_strings(given), cls=PlotlyJSONEncoder, separators=(",", ":"))
    # All else is ASCII: json.dumps escapes U+2028 and the like by itself.
    for sign in "<>&":
        packed = packed.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(packed)


def _plain_strings(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value, 2_000)
    if isinstance(value, dict):
        # Under this name plotly packs numbers, in letters and digits.
        return {key: each if key == "bdata" else _plain_strings(each) for key, each in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUS":
        return _plain_strings(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain_strings(each) for each in value]
    return value
