"""The page: sections of plain blocks become one HTML file that asks the network for nothing.

A block is a dict with one of these keys:

- ``heading``, ``note``: a text;
- ``words``: sentences, a line each; a triple is a verdict, a question and a sentence;
- ``figure``: a plotly figure, with its ``caption``;
- ``table``: a data frame, its index first, and its ``caption``; ``prose`` where cells are sentences;
- ``view``: a view of one prompt, and whether it carries the ``script`` that draws heads;
- ``more``: a title, and under ``blocks`` what is folded away until somebody opens it.

Every string of a result may be somebody's attack: the page shows all of them as text.
"""

import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from mcr_lens.results.tables import as_text
from mcr_lens.viz._tokens import visible

__all__ = ["MARK", "Block", "figure_json", "plain", "render", "with_interval"]

Block = dict[str, Any]
# Near the beginning of every page: such a file may be replaced by the next report.
MARK = '<meta name="generator" content="mcr-lens report">'
_MOST_ROWS = 400
_LONGEST = 2_000


def render(title: str, sections: Mapping[str, Sequence[Block]]) -> str:
    """The page with these sections, by title; each has an entry in the list of contents."""
    return _template().render(
        title=title,
        sections=sections,
        version=version("mcr-lens"),
        plotly=Markup(get_plotlyjs()),
        style=Markup(_file("page.css")),
        script=Markup(_file("page.js")),
        mark=Markup(MARK),
    )


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


def with_interval(frame: pd.DataFrame, name: str, low: str, high: str) -> list[str]:
    """A column with its interval, as ``1.0 [0.8, 1.2]``."""
    cells = as_text(frame.filter([name, low, high])).itertuples(index=False, name=None)
    return [f"{value} [{least}, {most}]" for value, least, most in cells]


def figure_json(figure: go.Figure) -> Markup:
    """A figure as JSON for the inside of a ``<script>``: nothing in it ends the element or reads as markup.

    Plotly takes some markup in names; those of a file are text. What our own figures write in hovers and
    titles is escaped where it is written.
    """
    content: dict[str, Any] = figure.to_plotly_json()
    # The template is plotly's own look, seven kilobytes a figure.
    content["layout"].pop("template", None)
    for trace in content["data"]:
        for part in ("name", "legendgroup"):
            if part in trace:
                trace[part] = html.escape(str(trace[part]))
    packed = json.dumps(_plain_strings(content), cls=PlotlyJSONEncoder, separators=(",", ":"))
    # All else is ASCII: json.dumps escapes U+2028 and the like by itself.
    for sign in "<>&":
        packed = packed.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(packed)


def _plain_strings(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value, _LONGEST)
    if isinstance(value, dict):
        # Under this name plotly packs numbers, in letters and digits.
        return {key: each if key == "bdata" else _plain_strings(each) for key, each in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUS":
        value = value.tolist()
    return [_plain_strings(each) for each in value] if isinstance(value, list | tuple) else value


def _rows(frame: pd.DataFrame) -> list[list[str]]:
    """A data frame as text, its index first; the first rows of a long one."""
    return [[str(cell) for cell in row] for row in as_text(frame.head(_MOST_ROWS)).itertuples()]


def _columns(frame: pd.DataFrame) -> list[str]:
    return [str(name).replace("_", " ") for name in (frame.index.name or "", *frame.columns)]


@cache
def _template() -> jinja2.Template:
    """The page with its holes; strings are made visible and escaped in all of them."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else plain(value, _LONGEST),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure_json": figure_json, "rows": _rows, "columns": _columns}
    environment.globals["most_rows"] = _MOST_ROWS
    return environment.from_string(_file("page.html"))


def _file(name: str) -> str:
    return files("mcr_lens.viz._report").joinpath(name).read_text(encoding="utf-8")
