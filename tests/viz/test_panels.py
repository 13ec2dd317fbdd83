"""Panels of a figure: axes say their unit, logarithmic ones write every tick out."""

from typing import Any

import numpy as np
import pytest

from mcr_lens.viz._panels import Panel, empty_panels, log_axis, place

TITLES = [
    Panel("norm ratio", "sink / others"),
    Panel("entropy", "0 to 1"),
    Panel("loss", "nats"),
    Panel("time", "s"),
]


def test_the_quantity_stands_above_a_panel_and_its_unit_along_the_axis() -> None:
    layout: Any = empty_panels(TITLES).layout
    assert [note.text for note in layout.annotations] == [panel.quantity for panel in TITLES]
    axes = [layout.yaxis, layout.yaxis2, layout.yaxis3, layout.yaxis4]
    assert [axis.title.text for axis in axes] == [panel.unit for panel in TITLES]


@pytest.mark.parametrize(
    ("values", "inside"),
    [([1.4, 30, 4], ["2", "5", "10", "20"]), ([1, 4000.0], ["1", "10", "100", "1000"])],
)
def test_ticks_of_a_logarithmic_axis_are_written_out(values: list[float], inside: list[str]) -> None:
    figure = empty_panels(TITLES)
    figure.add_scatter(y=[*values, np.nan, 0.0, np.inf], **place(2))
    log_axis(figure, 2)
    axis: Any = figure.layout.yaxis3  # type: ignore[attr-defined]
    assert axis.type == "log"
    pairs = list(zip(axis.tickvals, axis.ticktext, strict=True))
    assert [text for value, text in pairs if min(values) <= value <= max(values)] == inside
    assert all(float(text) == pytest.approx(value) for value, text in pairs)


def test_less_than_a_decade_has_more_than_one_tick() -> None:
    figure = empty_panels(TITLES)
    figure.add_scatter(y=[1.1, 1.9], **place(0))
    log_axis(figure, 0)
    axis: Any = figure.layout.yaxis  # type: ignore[attr-defined]
    assert axis.type == "log" and axis.tickvals is None  # plotly's own ticks are finer


def test_an_empty_panel_can_be_logarithmic() -> None:
    figure = empty_panels(TITLES)
    log_axis(figure, 0)
    assert figure.layout.yaxis.type == "log"  # type: ignore[attr-defined]
