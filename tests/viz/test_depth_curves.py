"""Figures show the profile's numbers, all of them and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.viz import depth_curves

RNG = np.random.default_rng(0)
PANELS = {
    "x": ["norm_ratio"],
    "x2": ["sink_compression"],
    "x3": ["normalized_entropy", "normalized_entropy_without_sink"],
    "x4": ["sink_rate"],
    "x5": ["mixing_score"],
    "x6": ["identity_score"],
}


def valley(seed: int = 0, n_depths: int = 6, **attributes: Any) -> mcr.Profile:
    ratio = [1.0, *[200.0 + 10 * depth for depth in range(n_depths - 2)], 3.0]
    entropy = [0.9, *[0.2] * (n_depths - 2), 0.8]
    scores = np.random.default_rng(seed).uniform(size=(4, n_depths - 1, 4))
    profile = made_profile(ratio, entropy, sink_score=scores, n_prompts=4, **attributes)
    profile.data["norm_ratio"][:] += np.random.default_rng(seed).uniform(size=(4, n_depths))
    return profile


def drawn(profiles: Any) -> Any:
    """The figure; plotly's own types do not know what it holds."""
    return depth_curves(profiles)


def curves(figure: Any, axis: str) -> list[Any]:
    # Markers alone are the phases' keys in the legend.
    drawn = [trace for trace in figure.data if trace.mode != "markers"]
    return [trace for trace in drawn if (trace.xaxis or "x") == axis]


@pytest.mark.parametrize("seed", [0, 1])
def test_every_curve_is_the_profiles(seed: int) -> None:
    profile = valley(seed)
    figure = drawn(profile)
    for axis, variables in PANELS.items():
        traces = curves(figure, axis)
        assert len(traces) == 3 * len(variables)
        for i, variable in enumerate(variables):
            expected = profile.over_prompts(variable)
            depth = np.arange(6 if "depth" in profile[variable].dims else 5)
            low, high, mean = traces[3 * i : 3 * i + 3]
            for trace, part in ((low, "low"), (high, "high"), (mean, "mean")):
                np.testing.assert_array_equal(trace.x, depth)
                np.testing.assert_array_equal(trace.y, expected[part])
            assert high.fill == "tonexty"
            assert mean.mode == "lines+markers"
            assert not low.showlegend


def test_a_figure_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its numbers from over_prompts and phases, and leaves the profile as it is."""
    profile = valley()
    before = profile.data.copy(deep=True)
    asked = []
    original = mcr.Profile.over_prompts

    def over_prompts(self: mcr.Profile, name: str, *args: float) -> Any:
        asked.append(name)
        return original(self, name, *args)

    monkeypatch.setattr(mcr.Profile, "over_prompts", over_prompts)
    drawn(profile)
    assert asked == [variable for variables in PANELS.values() for variable in variables]
    assert before.identical(profile.data)


def test_axes_say_what_they_show() -> None:
    layout = drawn(valley()).layout
    assert layout.yaxis.type == "log"
    for axis in (layout.yaxis3, layout.yaxis4, layout.yaxis5, layout.yaxis6):
        assert axis.range == (-0.02, 1.02)
    titles = [annotation.text for annotation in layout.annotations]
    assert titles[:3] == ["norm ratio", "compression by the sink", "normalized entropy"]
    assert titles[3:] == ["sink rate", "mixing score", "identity score"]
    units = [layout[f"yaxis{panel}"].title.text for panel in ("", 2, 3, 4, 5, 6)]
    assert units[:3] == ["sink token / mean of the others", "kappa", "0 to 1"]
    assert units[3:] == ["fraction of heads", "0 to 1", "0 to 1"]
    assert "0 = embeddings" in layout.xaxis5.title.text


def test_phases_are_shaded_where_they_are() -> None:
    profile = valley()
    found = profile.phases()
    assert found.mix == (0, 0)
    assert found.compress == (1, 4)
    assert found.refine == (5, 5)
    shapes = drawn(profile).layout.shapes
    assert len(shapes) == 18  # three phases in six panels
    first = [shape for shape in shapes if shape.xref == "x"]
    assert [(shape.x0, shape.x1) for shape in first] == [(-0.5, 0.5), (0.5, 4.5), (4.5, 5.5)]
    assert [shape.name for shape in first] == ["mix", "compress", "refine"]


def test_no_phase_no_shade() -> None:
    assert not drawn(made_profile([1, 1, 1])).layout.shapes


def test_two_models_over_relative_depth() -> None:
    profiles = {"small": valley(0), "large": valley(1, n_depths=9)}
    figure = drawn(profiles)
    assert not figure.layout.shapes
    assert figure.layout.xaxis5.title.text == "relative depth"
    for axis, variables in PANELS.items():
        traces = curves(figure, axis)
        assert len(traces) == 6 * len(variables)
        means = [trace for trace in traces if trace.mode == "lines+markers"]
        wanted = [(profile, variable) for profile in profiles.values() for variable in variables]
        for trace, (profile, variable) in zip(means, wanted, strict=True):
            np.testing.assert_array_equal(trace.y, profile.over_prompts(variable)["mean"])
            np.testing.assert_allclose(trace.x, np.arange(len(trace.y)) / (profile.data.sizes["depth"] - 1))
    ratio = [trace for trace in curves(figure, "x") if trace.mode == "lines+markers"]
    assert [trace.name for trace in ratio] == ["small", "large"]
    assert ratio[0].line.color != ratio[1].line.color
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert len(legend) == len(set(legend))
    assert {"small", "large"} <= set(legend)


def test_arms_of_one_model_are_drawn_over_depth_with_the_phases_of_the_first() -> None:
    profiles = {"untouched": valley(0), "write off": made_profile([1.0] * 6)}
    figure = drawn(profiles)
    assert "0 = embeddings" in figure.layout.xaxis5.title.text
    assert list(curves(figure, "x")[2].x) == [0, 1, 2, 3, 4, 5]
    assert {shape.name for shape in figure.layout.shapes} == {"mix", "compress", "refine"}
    assert "compress, untouched" in [trace.name for trace in figure.data]
    assert not drawn(dict(reversed(profiles.items()))).layout.shapes
    (named,) = {trace.name for trace in curves(drawn({"only": valley()}), "x") if trace.mode != "lines"}
    assert named == "only"


def test_panels_share_the_depth_axis_and_the_hover_says_what_it_is() -> None:
    figure = drawn(valley())
    assert all(getattr(figure.layout, f"xaxis{panel}").matches == "x" for panel in (2, 3, 4, 5, 6))
    relative = drawn({"small": valley(0), "large": valley(1, n_depths=9)})
    assert "relative depth %{x" in relative.data[2].hovertemplate
    assert "<br>depth %{x" in drawn({"a": valley(0), "b": valley(1)}).data[2].hovertemplate


def test_what_a_profile_lacks_is_left_out() -> None:
    data = valley().data
    kept = [name for name in data.data_vars if set(data[name].dims) == {"prompt", "depth"}]
    figure = drawn(mcr.Profile(data[kept]))
    assert len(curves(figure, "x")) == 3
    assert curves(figure, "x4") == curves(figure, "x5") == curves(figure, "x6") == []


def test_no_two_of_many_models_look_the_same() -> None:
    figure = drawn({f"model {i}": valley(i) for i in range(15)})
    ratio = [trace for trace in curves(figure, "x") if trace.mode == "lines+markers"]
    assert len({(trace.line.color, trace.marker.symbol) for trace in ratio}) == 15


def test_what_cannot_be_drawn_is_refused_in_one_line() -> None:
    for given, message in [
        ({}, "no profile to draw"),
        ([valley(), valley()], "several by name"),
        ({"a": 3}, "'a': a int is no profile"),
        ("run.nc", "a str is no profile"),
        (mcr.Profile.concat([valley(), valley()], "step", [0, 1]), "several profiles along 'step'"),
    ]:
        with pytest.raises(mcr.InputError, match=message):
            drawn(given)


def test_the_figure_can_be_written() -> None:
    assert "<div" in drawn(valley()).to_html(include_plotlyjs=False, full_html=False)
