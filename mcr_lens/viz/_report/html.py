"""Templates filled in: one HTML file that asks the network for nothing.

``page.html`` is the page, ``parts.html`` holds what all sections show things with, and each kind of result
has a template, which sets a ``title``, ``words`` for what was found, and a ``body``. Every string of a result
may be somebody's attack: the templates show all of them as text.
"""

import html
import json
from functools import cache
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.utils import PlotlyJSONEncoder

from mcr_lens import viz
from mcr_lens.results.html import templates
from mcr_lens.results.tables import as_text, cells
from mcr_lens.viz._tokens import visible

_LONGEST = 2_000


@cache
def template(name: str) -> jinja2.Template:
    """The template of this name; strings are made visible and escaped in all of its holes."""
    environment = templates("mcr_lens.viz._report", _as_text)
    filters = {"cells": cells, "figure_json": figure_json, "intervals": _intervals, "setting": _setting}
    environment.filters |= filters
    environment.globals["viz"] = viz
    return environment.get_template(name)


def _as_text(value: object) -> str:
    return value if isinstance(value, Markup) else plain(value, _LONGEST)


def plain(text: object, longest: int = 400) -> str:
    r"""Prose with all that cannot be seen made visible: controls, text directions, halves of surrogates.

    Markup stays what it is: the page escapes it. Longer texts are cut.

    Example:
        >>> plain("a <b>\u202e name\ud800")
        'a <b>\\u202e name\\ud800'
    """
    cut = str(text)[: longest + 1]
    prose = " ".join(visible(word) for word in cut.split(" "))
    return prose if len(cut) <= longest else prose[: longest - 1] + "…"


def figure_json(figure: go.Figure) -> Markup:
    """A figure as JSON for the inside of a ``<script>``: nothing in it ends the element or reads as markup.

    Plotly takes some markup in names; those of a file are text. What our own figures write in hovers and
    titles is escaped where it is written.
    """
    content: dict[str, Any] = figure.to_plotly_json()
    # The template is plotly's own look, seven kilobytes a figure.
    content["layout"].pop("template", None)
    for trace in content["data"]:
        trace |= {part: html.escape(str(trace[part])) for part in ("name", "legendgroup") if part in trace}
    packed = json.dumps(_plain_strings(content), cls=PlotlyJSONEncoder, separators=(",", ":"))
    # All else is ASCII: json.dumps escapes U+2028 and the like by itself.
    return Markup(packed.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}))


def _plain_strings(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value, _LONGEST)
    if isinstance(value, dict):
        # Under this name plotly packs numbers, in letters and digits.
        return {key: each if key == "bdata" else _plain_strings(each) for key, each in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUS":
        value = value.tolist()
    return [_plain_strings(each) for each in value] if isinstance(value, list | tuple) else value


def _intervals(frame: pd.DataFrame, **ends: tuple[str, str]) -> pd.DataFrame:
    """Columns with their intervals, as ``1.0 [0.8, 1.2]``, in place of the columns of the ends."""
    texts = as_text(frame)
    columns = {
        name: texts[name] + " [" + texts[low] + ", " + texts[high] + "]" for name, (low, high) in ends.items()
    }
    return frame.assign(**columns).drop(columns=[end for pair in ends.values() for end in pair])


def _setting(value: Any) -> str:
    """Plain values in a row, as long as they are few."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_setting(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_setting, value)) or "none"
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)
