"""Intervals of boundaries and layers cover the population's, and say when they cannot."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import planted_folder
from populations import POPULATIONS, Population, dataset, population
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.phases import Place, find_phases
from mcr_lens.phases.intervals import matched_places

SETS = 200
# What each population's mean has, by hand: the compression phase, emergence and dissipation layers.
TRUTH = {
    "abrupt": ((2, 6), [1], [6]),
    "slopes": ((3, 8), [1, 2, 3, 4], [6, 7, 8]),
    "prompts differ": ((2, 5), [1], [4, 5, 6]),
    "several stages": ((2, 7), [1, 3], [5, 7]),
    "lasting": ((3, 5), [2], []),
}


def drawn(source: Population, n_prompts: int, confidence: float) -> list:
    """Phases with intervals of many sets of prompts."""
    rngs = [np.random.default_rng([n_prompts, number]) for number in range(SETS)]
    return [find_phases(source.draw(n_prompts, rng), confidence=confidence, n_resamples=299) for rng in rngs]


def enough(covered: list[bool], confidence: float) -> bool:
    """At least the stated rate, but for the error of a simulation of so many sets."""
    return float(np.mean(covered)) >= confidence - 3 * np.sqrt(confidence * (1 - confidence) / len(covered))


def inside(place: Place | None, truth: int) -> bool:
    return place is not None and place.low is not None and place.high is not None and (
        place.low <= truth <= place.high
    )  # fmt: skip


@pytest.mark.parametrize("name", TRUTH)
def test_boundaries_of_the_population_are_exact(name: str) -> None:
    span, written, removed = TRUTH[name]
    found = find_phases(POPULATIONS[name].mean)
    assert found.compress == span
    assert [stage.layer for stage in found.emergence or ()] == written
    assert [stage.layer for stage in found.dissipation or ()] == removed


@pytest.mark.parametrize(("n_prompts", "confidence"), [(8, 0.8), (20, 0.95)])
@pytest.mark.parametrize("name", TRUTH)
def test_intervals_cover_the_boundaries_as_often_as_stated(
    name: str, n_prompts: int, confidence: float
) -> None:
    (first, last), written, removed = TRUTH[name]
    sets = [phases.intervals for phases in drawn(POPULATIONS[name], n_prompts, confidence)]
    assert enough([inside(found.begins, first) for found in sets], confidence)
    assert enough([inside(found.ends, last) for found in sets], confidence)
    if name == "prompts differ":
        return  # a kind of prompt that was not drawn names no layer: see below
    for layer in written:
        assert enough([any(inside(at, layer) for at in found.emergence) for found in sets], confidence)
    for layer in removed:
        assert enough([any(inside(at, layer) for at in found.dissipation) for found in sets], confidence)


@pytest.mark.parametrize("n_prompts", [20, 64])
def test_layers_of_some_prompts_are_among_those_that_resamples_name(n_prompts: int) -> None:
    sets = [phases.intervals for phases in drawn(POPULATIONS["prompts differ"], n_prompts, 0.95)]
    for layer in TRUTH["prompts differ"][2]:
        assert enough([found.dissipation_named.get(layer, 0) >= 0.025 for found in sets], 0.95)


@pytest.mark.parametrize("edge", [0.495, 0.505])
@pytest.mark.parametrize("n_prompts", [5, 20])
def test_intervals_cover_a_boundary_on_the_edge(edge: float, n_prompts: int) -> None:
    """Depth 5 keeps half of the fall, or just not: a sample is wrong about it nearly half of the time."""
    source = population(
        [1, 1, 200, 200, 200, 200, 200], [0.9, 0.9, 0.2, 0.1, 0.15, edge, 0.9], noise=0.1
    )  # fmt: skip
    truth = 5 if edge <= 0.5 else 4
    for confidence in (0.8, 0.95):
        sets = drawn(source, n_prompts, confidence)
        assert enough([inside(phases.intervals.ends, truth) for phases in sets], confidence)
    places = [phases.intervals.ends.place for phases in sets]
    assert len(set(places)) > 1, "the simulation is too easy to tell anything"


def test_the_truth_is_that_of_the_mean_not_of_most_prompts() -> None:
    """Most prompts (0.6) leave compression after depth 2; in their mean half of the fall is left at 3."""
    early = [0.9, 0.1, 0.1, 0.6, 0.9]
    late = [0.9, 0.1, 0.1, 0.1, 0.9]
    source = population([[1, 200, 200, 200, 1]] * 2, [early, late], shares=(0.6, 0.4), noise=0.01)
    assert find_phases(source.mean).compress == (1, 3)
    found = find_phases(source.draw(400, np.random.default_rng(0)), confidence=0.95)
    assert found.intervals is not None
    assert inside(found.intervals.ends, 3)
    own = mcr.phases.constancy(source.draw(400, np.random.default_rng(0)))
    assert own.loc["compression ends", "mode"] == 2


def test_no_compression_phase_and_none_in_any_resample() -> None:
    found = made_profile([1, 1.2, 1.5, 1.1], n_prompts=6).phases(confidence=0.95)
    assert found.compress is None and found.intervals is not None
    assert (found.intervals.share, found.intervals.begins, found.intervals.ends) == (0, None, None)
    assert found.intervals.emergence == found.intervals.dissipation == ()
    assert found.table().empty
    assert "0% with a compression phase" in str(found)


def test_a_phase_that_only_some_resamples_have() -> None:
    """Half of the prompts have kappa .3 and half -.1: the mean of .1 goes either way."""
    half = np.repeat([[1.0, 21.0, 1.0], [1.0, 1.0, 1.0]], 12, axis=0)
    entropy = np.repeat([[0.9, 0.63, 0.9], [0.9, 0.99, 0.9]], 12, axis=0)
    found = find_phases(dataset(half, entropy, np.diff(half)), 0.0999, confidence=0.95)
    assert found.compress == (1, 1) and found.intervals is not None
    assert 0.4 < found.intervals.share < 0.9
    assert found.intervals.begins == Place(1, 1, 1, found.intervals.share, found.intervals.share)
    assert f"{found.intervals.share:.0%} with a compression phase" in str(found)
    none = find_phases(dataset(half, entropy, np.diff(half)), 0.11, confidence=0.95)
    assert none.compress is None and none.intervals is not None
    assert 0.1 < none.intervals.share < 0.6 and none.intervals.begins is None


def test_boundaries_that_the_model_does_not_have() -> None:
    """Compressed from depth 0 on mixing never ends, compressed to the last depth nothing refines."""
    table = made_profile([1, 150, 150], [0.9, 0.1, 0.1]).phases(confidence=0.95).table()
    assert table.place.isna().to_dict() == {
        "mixing ends": False, "compression begins": False, "compression ends": False,
        "refinement begins": True, "emergence layer": False,
    }  # fmt: skip
    assert table.loc["compression ends", "place"] == 2
    assert table.loc["mixing ends", ["place", "low", "high"]].tolist() == [0, 0, 0]


def test_layers_that_only_resamples_name_have_rows_of_their_own() -> None:
    """The tenth of the prompts that are written in layer 3 is too few for the mean, not for resamples."""
    ratio = np.array([[1.0, 1, 300, 300, 300, 1]] * 9 + [[1.0, 1, 1, 1, 300, 1]])
    entropy = np.where(ratio > 1, 0.1, 0.9)
    found = find_phases(dataset(ratio, entropy, np.diff(ratio)), confidence=0.95)
    assert found.intervals is not None
    assert [stage.layer for stage in found.emergence or ()] == [1]
    table = found.table()
    assert table.index[-3:].tolist() == ["emergence layer", "possible emergence layer", "dissipation layer"]
    row = table.loc["possible emergence layer"]
    share = found.intervals.emergence_named[3]
    assert row.place == 3 and row.named == share and 0.025 <= share < 0.5
    assert pd.isna(row.low) and pd.isna(row.high) and pd.isna(row.found)
    assert f"in some resamples also 3 ({share:.0%})" in str(found)
    # A layer that fewer than (1 - confidence) / 2 of the resamples name is none.
    rare = dataclasses.replace(found.intervals, confidence=1 - 2 * share - 1e-9).table()
    assert "possible emergence layer" not in rare.index
    one = find_phases(dataset(ratio[:1], entropy[:1], np.diff(ratio[:1])), confidence=0.95)
    assert not any(name.startswith("possible") for name in one.table().index)


def test_one_prompt_has_no_interval_and_says_so() -> None:
    found = made_profile([1, 200, 5], [0.9, 0.1, 0.8], n_prompts=1).phases(confidence=0.95)
    assert found.intervals is not None and found.intervals.begins is not None
    assert found.intervals.begins.low is None and np.isnan(found.intervals.share)
    assert str(found).endswith("no intervals: at least 2 prompts needed")
    assert found.table().low.isna().all()


def test_prompts_without_a_value_are_not_drawn() -> None:
    data = POPULATIONS["slopes"].draw(6, np.random.default_rng(0))
    expected = find_phases(data, confidence=0.95).intervals
    empty = data.isel(prompt=[0, 1]).where(np.bool_(False))
    import xarray as xr

    found = find_phases(xr.concat([data, empty], "prompt"), confidence=0.95).intervals
    assert found == expected


def test_the_same_seed_gives_the_same_and_order_does_not_matter_much() -> None:
    profile = made_profile([1, 200, 150, 5], [0.9, 0.1, 0.45, 0.8], n_prompts=9)
    assert profile.phases(confidence=0.9, seed=1) == profile.phases(confidence=0.9, seed=1)
    assert profile.phases(confidence=None).intervals is None
    first_line = str(profile.phases(confidence=0.9)).split("\n")[0]
    assert str(profile.phases(confidence=None)) == first_line.replace(" [0.89, 0.89]", "")


def test_what_is_printed() -> None:
    data = POPULATIONS["several stages"].draw(16, np.random.default_rng(0))
    assert str(find_phases(data, confidence=0.95)) == (
        "Mix depths 0-1, Compress depths 2-7 (kappa 0.92 [0.88, 0.98] at depth 4), Refine depth 8\n"
        "95% intervals over 16 prompts (999 resamples, 100% with a compression phase):\n"
        "  compression begins at depth 2 [2, 2] and ends at depth 7 [7, 7]\n"
        "  sink token's norm written in 2 stages, layers 1 [1, 1] (100%), 3 [3, 3] (100%); "
        "taken back in 2 stages, layers 5 [5, 5] (100%), 7 [7, 7] (100%)"
    )


def test_the_nearest_place_is_matched() -> None:
    named = np.array([[1, 0, 0, 0, 1], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], dtype=bool)
    np.testing.assert_array_equal(
        matched_places(named, [0, 4]), [[0, 4], [1, np.nan], [np.nan, 4], [np.nan, np.nan]]
    )
    assert matched_places(named, []).shape == (4, 0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"confidence": 1.0}, "confidence 1.0: use a number between"),
        ({"confidence": 0.9, "n_resamples": 0}, "n_resamples 0: use"),
        ({"confidence": 0.9, "seed": -1}, "seed -1: use"),
    ],
)
def test_options_out_of_range(options: dict, match: str) -> None:
    with pytest.raises(mcr.InputError, match=match):
        made_profile([1, 2]).phases(**options)


def test_infinite_values_have_no_interval() -> None:
    profile = made_profile([1, 200, 5], [0.9, 0.1, 0.8])
    profile.data["sink_norm"][0, 1] = np.inf
    assert profile.phases(confidence=None).compress == (1, 1)
    with pytest.raises(mcr.InputError, match=r"1 values are infinite .* confidence=None"):
        profile.phases(confidence=0.95)


@pytest.mark.parametrize(
    ("emergence", "dissipation"), [((1,), (5,)), ((3,), (4,)), ((1, 3), ()), ((0, 1, 2), (5,)), ((), ())]
)
def test_planted_models_have_their_layers_in_every_resample(
    tmp_path: Path, emergence: tuple[int, ...], dissipation: tuple[int, ...]
) -> None:
    options = {"emergence": emergence, "dissipation": dissipation, "sink_layers": (2,) if emergence else ()}
    model = mcr.load_model(planted_folder(tmp_path, **options))
    tokens = [[1, *range(3 + start, 15 + 2 * start)] for start in range(6)]
    profile = mcr.profile(model, mcr.Prompts.from_tokens(tokens), progress=False)
    found = profile.phases(confidence=0.95).intervals
    assert found is not None and found.share == bool(emergence)
    assert found.emergence == tuple(Place(layer, layer, layer, 1.0, 1.0) for layer in emergence)
    assert found.dissipation == tuple(Place(layer, layer, layer, 1.0, 1.0) for layer in dissipation)
    assert found.emergence_named == dict.fromkeys(emergence, 1.0)
    assert found.dissipation_named == dict.fromkeys(dissipation, 1.0)
    points = profile.change_points(curves=["log_norm_ratio", "normalized_entropy"]).depths
    if not emergence:
        assert points == []
        return
    assert found.begins is not None and found.ends is not None
    assert emergence[0] + 1 <= found.begins.place <= emergence[-1] + 1
    assert found.ends.place == (dissipation[0] if dissipation else 6)
    # The first write takes the norm from 1 to 100 or more, the last removal brings it back.
    assert points[0] == emergence[0] + 1
    assert {layer + 1 for layer in dissipation} <= set(points)
