"""The segmentation is the best of all, finds what is planted and nothing where nothing is."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from populations import POPULATIONS, population
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.phases import change_points
from mcr_lens.phases.curves import CURVES
from mcr_lens.phases.segmentation import segment


def cost(curves: np.ndarray, cuts: tuple[int, ...], penalty: float) -> float:
    """What a segmentation costs, from the formula."""
    edges = [0, *cuts, curves.shape[1]]
    total = penalty * len(cuts)
    for first, stop in pairwise(edges):
        for curve in curves[:, first:stop]:
            known = curve[~np.isnan(curve)]
            total += ((known - known.mean()) ** 2).sum() if len(known) else 0.0
    return total


def every_segmentation(n_depths: int) -> list[tuple[int, ...]]:
    inner = range(1, n_depths)
    return [cuts for number in range(n_depths) for cuts in combinations(inner, number)]


VALUES = st.one_of(st.floats(-2, 2, width=32), st.just(float("nan")), st.sampled_from([0.0, 0.5, 1.0]))


@given(
    curves=st.tuples(st.integers(1, 3), st.integers(1, 7)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=VALUES)
    ),
    penalty=st.sampled_from([0.01, 0.1, 0.7]),
)
def test_no_segmentation_is_better(curves: np.ndarray, penalty: float) -> None:
    """Against all 2^(n-1) of them, NaN anywhere."""
    found = tuple(np.flatnonzero(segment(curves, penalty)).tolist())
    best = min(cost(curves, cuts, penalty) for cuts in every_segmentation(curves.shape[1]))
    assert cost(curves, found, penalty) == pytest.approx(best, abs=1e-9)


def test_many_sets_of_curves_are_as_if_alone() -> None:
    curves = np.random.default_rng(0).normal(size=(40, 3, 12))
    curves[:, 1, -1] = np.nan
    together = segment(curves, 0.5)
    for one, expected in zip(curves, together, strict=True):
        np.testing.assert_array_equal(segment(one, 0.5), expected)


def valley(**options: Any) -> mcr.Profile:
    scores = np.full((6, 6, 4), 0.1)
    scores[:, 2:5] = 0.9  # sinks in the layers that read depths 2 to 4
    return made_profile(
        [1, 1, 200, 200, 200, 2, 2], [0.9, 0.9, 0.1, 0.1, 0.1, 0.8, 0.8], sink_score=scores, n_prompts=6
    )


def test_planted_changes_are_exact_and_named() -> None:
    found = change_points(valley())
    assert found.depths == [2, 5]
    assert found.table().begins.tolist() == ["compression", "refinement"]
    assert found.table()[["low", "high"]].to_numpy().tolist() == [[2, 2], [5, 5]]
    assert found.same_number == 1
    assert found.segments["first"].tolist() == [0, 2, 5]
    np.testing.assert_allclose(found.segments.sink_rate, [0, 1, 0])  # depth 6, read by no layer, is left out
    assert found.curves == CURVES
    assert str(found).startswith("2 change points (penalty 0.1): depth 2 [2, 2], 5 [5, 5]\n95% intervals")


def test_several_stages_are_found_as_such() -> None:
    profile = made_profile([1, 1, 30, 30, 900, 900, 30, 30, 1, 1], [0.9] * 2 + [0.5] * 2 + [0.1] * 6)
    assert change_points(profile).depths == [2, 4, 6, 8]


def test_heads_that_change_alone_are_no_boundary_of_a_phase() -> None:
    scores = np.full((2, 6, 4), 0.1)
    scores[:, 3:] = 0.9
    found = change_points(made_profile([1] * 7, sink_score=scores))
    assert found.depths == [3]
    assert found.table().begins.tolist() == [""]
    assert change_points(made_profile([1] * 7, sink_score=scores), curves=["normalized_entropy"]).depths == []


def test_a_flat_profile_has_none() -> None:
    found = change_points(made_profile([1] * 9))
    assert found.depths == [] and found.same_number == 1
    assert len(found.segments) == 1 and found.table().empty
    assert str(found).startswith("no change point (penalty 0.1)")


@pytest.mark.parametrize("noise", [1e-9, 0.05, 0.15])
def test_noise_has_none_however_small_it_is(noise: float) -> None:
    flat = population([1.5] * 20, [0.8] * 20, noise=noise)
    for seed in range(40):
        assert change_points(flat.draw(16, np.random.default_rng(seed)), confidence=None).depths == []


def test_a_larger_penalty_never_finds_more() -> None:
    data = POPULATIONS["slopes"].draw(8, np.random.default_rng(0))
    numbers = [len(change_points(data, penalty=p, confidence=None).points) for p in (0.01, 0.05, 0.2, 1, 9)]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > numbers[-1] == 0


@pytest.mark.parametrize("name", ["abrupt", "several stages", "slopes", "prompts differ"])
def test_intervals_cover_the_change_points_of_the_population(name: str) -> None:
    """Those of the mean over very many prompts, where they are clear of the penalty."""
    source = POPULATIONS[name]
    truth = change_points(source.draw(20_000, np.random.default_rng(1)), confidence=None).depths
    covered = []
    for seed in range(200):
        data = source.draw(20, np.random.default_rng([7, seed]))
        found = change_points(data, confidence=0.9, n_resamples=199)
        for depth in truth:
            intervals = ((at.low, at.high) for at in found.points)
            covered.append(any(low is not None and low <= depth <= (high or 0) for low, high in intervals))
    assert truth
    assert np.mean(covered) >= 0.9 - 3 * np.sqrt(0.09 / 200)


def test_without_attention_the_other_curves_remain() -> None:
    profile = valley()
    left = mcr.Profile(profile.data.drop_vars(["sink_score", "mixing_score", "identity_score"]))
    found = change_points(left)
    assert found.curves == ("log_norm_ratio", "normalized_entropy")
    assert found.depths == [2, 5]


def test_one_prompt_and_missing_values() -> None:
    profile = valley()
    one = change_points(profile.data.isel(prompt=[0]))
    assert one.depths == [2, 5] and one.points[0].low is None
    assert "no intervals: at least 2 prompts needed" in str(one)
    profile.data["norm_ratio"][:, 0] = 0  # no logarithm
    profile.data["normalized_entropy"][1] = np.nan
    profile.data["sink_score"][:, 4] = np.nan
    assert change_points(profile).depths == [2, 5]
    for name in profile.data.data_vars:
        profile.data[name][:] = np.nan
    nothing = change_points(profile)
    assert nothing.depths == [] and nothing.n_prompts == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"penalty": 0}, "penalty 0: use a number above 0, such as 0.1"),
        ({"penalty": float("nan")}, "penalty nan: use a number above 0"),
        ({"curves": ["norm"]}, "no curve 'norm': use some of log_norm_ratio"),
        ({"curves": []}, "has none of the curves"),
        ({"confidence": 2}, "confidence 2: use a number between"),
    ],
)
def test_bad_input(options: dict, match: str) -> None:
    with pytest.raises(mcr.InputError, match=match):
        valley().change_points(**options)


def test_several_profiles_at_once_are_refused() -> None:
    both = mcr.Profile.concat([valley(), valley()], "arm", ["a", "b"])
    for call in (both.change_points, both.correlations, both.constancy, both.phases):
        with pytest.raises(mcr.InputError, match="select one arm first"):
            call()
