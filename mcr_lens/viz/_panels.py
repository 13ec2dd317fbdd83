"""What all figures share: panels, curves with their bands, axes, phases behind curves, and one look."""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from mcr_lens.errors import InputError
from mcr_lens.phases import Phases
from mcr_lens.results import Profile
from mcr_lens.results.profile import STACKED

# Okabe and Ito's palette: told apart with any common colour blindness.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Grey, which can be read on light and on dark pages.
INK = "#808080"
_GRID = "rgba(128,128,128,0.25)"
# More curves than colours are told apart by their markers.
_SYMBOLS = ("circle", "square", "diamond", "cross")
PHASES = {"mix": "#56B4E9", "compress": "#E69F00", "refine": "#009E73"}
# Wider than this, a logarithmic axis has ticks at powers of ten alone.
_DECADES = 2.5
DEPTH = "depth (0 = embeddings)"


class Curve(NamedTuple):
    """A variable over depth: how the legend calls it and how its line looks.

    ``color`` is the profile's own by default; a curve without a band has no markers either; ``transform`` is
    taken of the mean over prompts and of the ends of the band.
    """

    variable: str
    label: str
    dash: str = "solid"
    color: str = ""
    has_band: bool = True
    transform: Callable[[xr.Dataset], xr.Dataset] | None = None


class Panel(NamedTuple):
    """A quantity above its panel, its unit along the y axis, and what is drawn.

    The scale ``"share"`` goes from 0 to 1 whatever is drawn: what hardly moves must look like it.
    """

    quantity: str
    unit: str
    curves: Sequence[Curve] = ()
    scale: Literal["linear", "log", "share"] = "linear"


def curves_over_depth(
    profiles: Mapping[str, Profile], panels: Sequence[Panel], *, phases: bool = False
) -> go.Figure:
    """Panels of curves over depth: means over prompts, with the middle half of the prompts.

    What belongs to a layer stands at the depth that the layer reads. Profiles with different last depths are
    drawn over relative depth (0 to 1). What a profile lacks is left out.

    Args:
        profiles: by name; under the empty name the only one.
        phases: shade those of the first profile, unless depth is relative.
    """
    relative = len({int(profile.data.depth[-1]) for profile in profiles.values()}) > 1
    figure, in_legend = empty_panels(panels), set()
    drawn = (
        (number, name, profile, panel, curve)
        for number, (name, profile) in enumerate(profiles.items())
        for panel in range(len(panels))
        for curve in panels[panel].curves
        if has_curve(profile, curve.variable)
    )
    for number, name, profile, panel, curve in drawn:
        values = profile.over_prompts(curve.variable)
        (along,) = values["mean"].dims
        depth = values[along].values
        x, at = (depth / int(profile.data.depth[-1]), "relative depth") if relative else (depth, str(along))
        # The legend names the profiles once, and their dashed curves apart.
        label = name if name and curve.dash == "solid" else ", ".join(filter(None, (name, curve.label)))
        style = curve_style(number, label, curve.dash, curve.color)
        style["showlegend"] = label not in in_legend and bool(name or len(panels[panel].curves) > 1)
        in_legend |= {label} if style["showlegend"] else set()
        if not curve.has_band:
            style["mode"] = "lines"
            values = values[["mean"]]
        values = curve.transform(values) if curve.transform else values
        add_curve(figure, x, values, style, place(panel), at, len(profiles))
    first, profile = next(iter(profiles.items()))
    if phases and not relative and profile.has_phases:
        shade_phases(figure, profile.phases(confidence=None), len(panels), first)
    if relative:
        figure.update_xaxes(range=[-0.03, 1.03])
    return finished(figure, panels, "relative depth" if relative else DEPTH)


def profiles_by_name(profiles: Any, what: str) -> dict[str, Profile]:
    """What a figure was given as profiles by name, under the empty name the only one.

    Raises:
        InputError: for none, for what has no data, and for several profiles stacked in one.
    """
    # A dataset is a mapping too.
    several = isinstance(profiles, Mapping) and not isinstance(profiles, xr.Dataset)
    if isinstance(profiles, list | tuple) or (several and not profiles):
        raise InputError(
            f"no {what} to draw: give one, or several by name, as in {{'before': a, 'after': b}}"
        )
    named = {}
    for name, one in (profiles if several else {"": profiles}).items():
        data = one if isinstance(one, xr.Dataset) else getattr(one, "data", None)
        called = f"{name!r}: " if name else ""
        if not isinstance(data, xr.Dataset):
            raise InputError(f"{called}a {type(one).__name__} is no {what}")
        if stacked := [dim for dim in STACKED if dim in data.dims]:
            raise InputError(
                f"{called}several profiles along {stacked[0]!r}: select one, as in data.sel({stacked[0]}=...)"
            )
        named[str(name)] = Profile(data)
    return named


def has_curve(profile: Profile, name: str) -> bool:
    """Whether ``Profile.over_prompts`` knows a variable, stored or derived."""
    if name == "sink_compression":
        return profile.has_phases
    return ("sink_score" if name == "sink_rate" else name) in profile.data


def empty_panels(panels: Sequence[Panel]) -> go.Figure:
    """Empty panels, two a row, over one x axis: above each its quantity, and the unit along its y axis."""
    quantities, rows = [panel.quantity for panel in panels], (len(panels) + 1) // 2
    figure = make_subplots(
        rows=rows, cols=2, subplot_titles=quantities, vertical_spacing=0.28 / rows, horizontal_spacing=0.13
    )
    for number, panel in enumerate(panels):
        figure.update_yaxes(title_text=panel.unit, title_standoff=6, **place(number))
    return figure.update_xaxes(matches="x")


def place(panel: int) -> dict[str, Any]:
    """Row and column of a panel, counted along the rows."""
    return {"row": panel // 2 + 1, "col": panel % 2 + 1}


def curve_style(number: int, name: str, dash: str = "solid", color: str = "") -> dict[str, Any]:
    """Colour first, then marker: 24 curves are told apart."""
    symbol = _SYMBOLS[number // len(COLORS) % len(_SYMBOLS)]
    line = {"color": color or COLORS[number % len(COLORS)], "dash": dash, "width": 2}
    return {"name": name, "line": line, "marker": {"symbol": symbol, "size": 5 + 2 * (symbol != "circle")}}


def add_curve(
    figure: go.Figure,
    x: ArrayLike,
    curve: Mapping[Any, ArrayLike],
    style: dict[str, Any],
    place: dict[str, int],
    at: str = "depth",
    n_curves: int = 1,
) -> None:
    """Draw ``curve["mean"]`` in one panel and, if there is one, its band (``low`` to ``high``).

    Where a number is not known, line and band have a gap.

    Args:
        style: of the line; its ``name`` is what the legend, the hover and the group of the legend say, so
            that a click in the legend hides the band with its line.
        place: ``row`` and ``col`` of the panel.
        at: what the hover calls a place on the x axis.
        n_curves: in the panel; bands of many are fainter, or they would drown the lines.
    """
    name = style["name"]
    values = {part: np.asarray(curve[part]) for part in curve}
    if "low" in values:
        x, low, high = np.asarray(x), values["low"], values["high"]
        band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        band["legendgroup"] = name
        red, green, blue = (int(style["line"]["color"][i : i + 2], 16) for i in (1, 3, 5))
        fill = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},{min(0.15, 0.6 / n_curves):.2g})"}
        # Stretch by stretch: plotly fills across a gap, to where there is nothing.
        for stretch in np.ma.clump_unmasked(np.ma.masked_invalid(low + high)):
            figure.add_scatter(x=x[stretch], y=low[stretch], **band, **place)
            figure.add_scatter(x=x[stretch], y=high[stretch], **band, **fill, **place)
    called = f"{html.escape(name)}<br>" if name else ""
    hover = f"{called}{at} %{{x:.3~g}}: %{{y:.3g}}<extra></extra>"
    line = {"mode": "lines+markers", "legendgroup": name, "hovertemplate": hover} | style
    figure.add_scatter(x=x, y=values["mean"], **line, **place)


def finished(figure: go.Figure, panels: Sequence[Panel], x_title: str) -> go.Figure:
    """The scales of all panels, once all is drawn, what the x axis is below the last row, and the look."""
    for number, panel in enumerate(panels):
        if panel.scale == "log":
            log_axis(figure, number)
        elif panel.scale == "share":
            figure.update_yaxes(range=[-0.02, 1.02], **place(number))
    rows = (len(panels) + 1) // 2
    figure.update_xaxes(title_text=x_title, row=rows)
    return styled(figure).update_layout(height=300 * rows + 20)


def heat_map(cells: Any, has_numbers: bool, title: str, height: float, **look: Any) -> go.Figure:
    """A map of cells, in each of which its number stands if there is room."""
    numbers = {"texttemplate": "%{z:.2f}"} if has_numbers else {}
    bar = {"thickness": 14} | look.pop("colorbar", {})
    figure = styled(go.Figure(go.Heatmap(z=cells, xgap=1, ygap=1, colorbar=bar, **numbers, **look)))
    figure.update_layout(height=height, title={"text": title, "font": {"size": 14}} if title else None)
    figure.update_yaxes(title_text="layer", showgrid=False)
    return figure.update_xaxes(showgrid=False)


def log_axis(figure: go.Figure, panel: int) -> None:
    """Make a panel's y axis logarithmic, once all is drawn in it; its ticks are numbers written out.

    Plotly writes 20 as a small 2 beside the 10. Of less than about a decade it writes its ticks well.
    """
    traces: Any = figure.select_traces(**place(panel))
    drawn = [np.asarray(trace["y"], dtype=float) for trace in traces]
    values = np.concatenate([*drawn, []])
    values = values[np.isfinite(values) & (values > 0)]
    low, high = np.log10([values.min(), values.max()]) if len(values) else (0.0, 1.0)
    steps = (1,) if high - low > _DECADES else (1, 2, 5)
    # Beyond what is drawn too: there is more to see when the reader zooms out.
    powers = np.arange(np.floor(low) - 1, np.ceil(high) + 2)
    ticks = [step * 10.0**power for power in powers for step in steps]
    axis: dict[str, Any] = {"type": "log"}
    if sum(low <= np.log10(tick) <= high for tick in ticks) > 1:
        axis |= {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    figure.update_yaxes(**axis, **place(panel))


def shade_phases(figure: go.Figure, phases: Phases, panels: int, whose: str = "") -> None:
    """Shade the phases in the first panels of a figure over depth, and name them in the legend."""
    for name, fill in PHASES.items():
        span = getattr(phases, name)
        if span is None:
            continue
        edges = {"x0": span[0] - 0.5, "x1": span[1] + 0.5, "y0": 0, "y1": 1}
        look = {"fillcolor": fill, "opacity": 0.15, "line": {"width": 0}, "layer": "below"}
        for panel in range(panels):
            axis = str(panel + 1) if panel else ""
            across = {"xref": f"x{axis}", "yref": f"y{axis} domain"}
            figure.add_shape(type="rect", name=name, **edges, **look, **across)
        key = {"symbol": "square", "size": 12, "color": fill, "opacity": 0.4}
        called = f"{name}, {whose}" if whose else name
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=key, name=called, row=1, col=1)


def styled(figure: go.Figure) -> go.Figure:
    """One look for light and dark pages: no background of its own, grey ink."""
    figure.update_layout(
        height=620,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 13},
        margin={"l": 60, "r": 20, "t": 60, "b": 60},
        legend={"orientation": "h", "y": -0.12, "x": 0},
    )
    # Titles of axes no larger than the labels: on a narrow page they would run into each other. And behind
    # the labels of the ticks, also where these are turned.
    look = {"gridcolor": _GRID, "zeroline": False, "linecolor": INK, "title_font_size": 13}
    figure.update_xaxes(**look, title_standoff=10, automargin=True)
    return figure.update_yaxes(**look)
