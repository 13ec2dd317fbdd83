"""The figure of an ablation study shows its dose curves, controls told from treatments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import mcr_lens as mcr
from mcr_lens.viz import dose_response

PANELS = {"x": "norm_ratio", "x2": "normalized_entropy_without_sink", "x3": "sink_rate", "x4": "loss"}
ARMS = {"write, layer 1": "treatment", "norm clamp": "treatment", "control: other token": "control"}


@pytest.fixture(scope="module")
def study() -> mcr.experiments.AblationStudy:
    return made(ARMS)


def made(arms: dict[str, str]) -> mcr.experiments.AblationStudy:
    rng = np.random.default_rng(0)
    sizes = {"arm": len(arms), "dose": 3, "prompt": 5, "depth": 4}
    names = ("norm_ratio", "normalized_entropy", "normalized_entropy_without_sink", "lens_loss")
    data = {name: (tuple(sizes), rng.uniform(size=tuple(sizes.values()))) for name in names}
    score = rng.uniform(size=(len(arms), 3, 5, 3, 2))
    data["sink_score"] = (("arm", "dose", "prompt", "layer", "head"), score)
    coords = {"arm": list(arms), "dose": [0.0, 0.5, 1.0], "depth": range(4), "layer": range(3)}
    dataset = xr.Dataset(data, coords=coords, attrs={"compressed_depths": [1, 2], "before_depth": 1})
    return mcr.experiments.AblationStudy(dataset.assign_coords(kind=("arm", list(arms.values()))))


def drawn(study: mcr.experiments.AblationStudy) -> Any:
    """The figure; plotly's own types do not know what it holds."""
    return dose_response(study)


def test_every_curve_is_the_studys(study: mcr.experiments.AblationStudy) -> None:
    curves, figure = study.dose_curves(), drawn(study)
    for axis, outcome in PANELS.items():
        traces = [trace for trace in figure.data if (trace.xaxis or "x") == axis]
        assert len(traces) == 3 * len(ARMS)
        for i, arm in enumerate(ARMS):
            for trace, part in zip(traces[3 * i : 3 * i + 3], ("low", "high", "mean"), strict=True):
                np.testing.assert_array_equal(trace.x, [0, 0.5, 1])
                np.testing.assert_array_equal(trace.y, curves[outcome].sel(arm=arm, estimate=part))
                assert trace.legendgroup == arm
    assert [trace.name for trace in figure.data if trace.showlegend] == list(ARMS)


def test_controls_are_grey_and_treatments_are_not(study: mcr.experiments.AblationStudy) -> None:
    lines = {trace.name: trace.line for trace in drawn(study).data if trace.name}
    assert lines["control: other token"].color == "#808080"
    assert lines["control: other token"].dash == "dot"
    assert {lines[arm].dash for arm, kind in ARMS.items() if kind == "treatment"} == {"solid"}
    assert lines["write, layer 1"].color != lines["norm clamp"].color


def test_no_two_arms_look_the_same() -> None:
    arms = {f"write, layer {i}": "treatment" for i in range(15)} | {
        "control: other token": "control",
        "control: other layer": "control",
    }
    curves = [trace for trace in drawn(made(arms)).data if trace.name and trace.xaxis == "x"]
    looks = {(curve.line.color, curve.line.dash, curve.marker.symbol) for curve in curves}
    assert len(looks) == len(arms)


def test_what_lies_between_0_and_1_is_drawn_on_the_whole_scale(study: mcr.experiments.AblationStudy) -> None:
    layout = drawn(study).layout
    assert layout.yaxis.type == "log"
    assert layout.yaxis2.range == layout.yaxis3.range == (-0.02, 1.02)
    assert layout.yaxis4.range is None
