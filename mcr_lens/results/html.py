"""What a notebook shows of a result: sentences, small curves, what to beware of, and a table."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from mcr_lens.results.tables import to_html

__all__ = ["result_html", "templates"]

# Of a small curve, in pixels; the template has them too.
_WIDTH, _HEIGHT, _MARGIN = 150, 28, 3


def result_html(result: Any, curves: pd.DataFrame | None = None) -> str:
    """A result for a notebook, without script, in the colours of the page; names are text, never markup.

    Args:
        curves: quantities over depth, drawn small; the table is folded away then.
    """
    drawn = None if curves is None else list(_sparklines(curves))
    template = templates("mcr_lens.results").get_template("result.html")
    return template.render(result=result, curves=drawn, table=Markup(to_html(result.table())))


@cache
def templates(package: str, finalize: Any = None) -> jinja2.Environment:
    """The templates that stand in a package; every text that fills them is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _sparklines(curves: pd.DataFrame) -> Iterator[tuple[object, str, str]]:
    """Of each quantity its name, its curve as a path of SVG, and where it is least and greatest.

    The curve goes from its least to its greatest value; a value that is missing breaks the line.
    """
    for name, curve in curves.astype(float).items():
        finite = np.ma.masked_invalid(curve.to_numpy())
        if not finite.count():
            continue
        low, high = int(finite.argmin()), int(finite.argmax())
        extremes = f"{finite[low]:.3g} at {curve.index[low]}, {finite[high]:.3g} at {curve.index[high]}"
        x = np.linspace(_MARGIN, _WIDTH - _MARGIN, len(finite))
        y = _HEIGHT - _MARGIN - (finite - finite.min()) / (np.ptp(finite) or 1.0) * (_HEIGHT - 2 * _MARGIN)
        points = np.array([f"{at:.1f} {height:.1f}" for at, height in zip(x, y.filled(0), strict=True)])
        yield name, " ".join("M" + " L".join(points[part]) for part in np.ma.clump_unmasked(finite)), extremes
