"""The figure of bounds shows the profile's numbers, each measured value on the right side of its bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.viz import bounds

MEASURED = {"x": "matrix_entropy", "x2": "anisotropy", "x3": "dominance"}


def traces(figure: Any, axis: str) -> list[Any]:
    return [trace for trace in figure.data if (trace.xaxis or "x") == axis]


def test_measured_curves_and_bounds_are_the_profiles(llama_profile: mcr.Profile) -> None:
    figure: Any = bounds(llama_profile)
    for axis, name in MEASURED.items():
        low, high, mean, bound = traces(figure, axis)
        expected = llama_profile.data[name].values
        np.testing.assert_allclose(mean.y, expected.mean(0), rtol=1e-12)
        np.testing.assert_allclose(low.y, np.quantile(expected, 0.25, axis=0), rtol=1e-12)
        np.testing.assert_allclose(high.y, np.quantile(expected, 0.75, axis=0), rtol=1e-12)
        limit = llama_profile.data[f"{name.removeprefix('matrix_')}_bound"].values.mean(0)
        np.testing.assert_allclose(bound.y, limit, rtol=1e-12)
        assert bound.name == ("upper bound" if name == "matrix_entropy" else "lower bound")
        above = np.asarray(bound.y) >= np.asarray(mean.y) - 1e-9
        below = np.asarray(bound.y) <= np.asarray(mean.y) + 1e-9
        assert (above if bound.name == "upper bound" else below).all()


def test_tightness_is_the_profiles() -> None:
    profile = made_profile([1, 200, 4], [0.9, 0.1, 0.8], n_prompts=4)
    means = [trace for trace in traces(bounds(profile), "x4") if trace.mode == "lines+markers"]
    assert [trace.name for trace in means] == [
        f"tightness, {name}" for name in ("entropy", "anisotropy", "dominance")
    ]
    for trace, name in zip(means, ("entropy", "anisotropy", "dominance"), strict=True):
        np.testing.assert_array_equal(trace.y, profile.tightness(name).mean("prompt"))


def test_names_stand_in_the_legend_once_and_axes_say_what_they_show() -> None:
    figure: Any = bounds(made_profile([1, 200, 4]))
    legend = [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]
    assert len(legend) == len(set(legend)) == 6
    assert [title.text for title in figure.layout.annotations] == [
        "matrix entropy",
        "anisotropy",
        "dominance",
        "tightness",
    ]
    units = [getattr(figure.layout, f"yaxis{panel}").title.text for panel in ("", 2, 3, 4)]
    assert units == ["nats", "0 to 1", "first / rest of the spectrum", "1 = the bound is met"]
    assert figure.layout.yaxis3.type == "log"
    assert figure.layout.yaxis2.range == figure.layout.yaxis4.range == (-0.02, 1.02)


def test_the_profile_is_left_as_it_is() -> None:
    profile = made_profile([1, 200, 4])
    before = profile.data.copy(deep=True)
    bounds(profile)
    assert before.identical(profile.data)


def test_another_estimator_and_several_profiles_are_refused() -> None:
    other = made_profile([1, 200, 4], estimator={"center": True, "unit_rows": False, "alpha": 1.0})
    with pytest.raises(mcr.InputError, match="raw estimator"):
        bounds(other)
    several = mcr.Profile.concat([made_profile([1, 200, 4])] * 2, "step", [0, 1])
    with pytest.raises(mcr.InputError, match="select one"):
        bounds(several)
