"""A profile's derived numbers are those of plain NumPy; profiles are put together or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from profiles import ATTRIBUTES, made_profile

import mcr_lens as mcr
from mcr_lens import phases

RNG = np.random.default_rng(0)
SCORES = RNG.uniform(size=(2, 3, 4))


def scored(**attributes: Any) -> mcr.Profile:
    return made_profile([1, 20, 30, 5], sink_score=SCORES, **attributes)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8, 1.0])
def test_sink_rate_is_a_plain_fraction(threshold: float) -> None:
    rate = scored().sink_rate(threshold)
    assert rate.dims == ("prompt", "layer")
    assert rate.name == "sink_rate"
    np.testing.assert_allclose(rate, (SCORES >= threshold).mean(axis=2))


def test_the_threshold_itself_is_a_sink() -> None:
    profile = made_profile([1, 1], sink_score=np.full((2, 1, 4), 0.3))
    assert (profile.sink_rate(0.3) == 1).all()


def test_heads_that_are_undefined_do_not_count() -> None:
    scores = SCORES.copy()
    scores[0, 0] = [0.9, np.nan, 0.1, np.nan]
    scores[0, 1] = np.nan
    rate = made_profile([1, 20, 30, 5], sink_score=scores).sink_rate(0.5)
    assert float(rate[0, 0]) == 0.5
    assert np.isnan(rate[0, 1])
    np.testing.assert_allclose(rate[1], (SCORES[1] > 0.5).mean(axis=1))


def test_column_sums_anywhere(llama_profile: mcr.Profile) -> None:
    profile = scored()
    np.testing.assert_allclose(profile.col_sum_rate(0.3), (np.maximum(SCORES, 0.2) > 0.3).mean(axis=2))
    assert (profile.col_sum_rate(0.3, "concentration") == 1).all()
    assert (profile.col_sum_rate(0.5, statistic="concentration") == 0).all()
    with pytest.raises(mcr.InputError, match="'max' or 'concentration'"):
        profile.col_sum_rate(statistic="mean")  # type: ignore[arg-type]
    for threshold in (0.05, 0.1, 0.2, 0.3):
        assert (llama_profile.col_sum_rate(threshold) >= llama_profile.sink_rate(threshold)).all()


def test_the_share_of_sinks_against_identity_is_between_0_and_1() -> None:
    profile = scored()
    share = profile.sink_versus_identity(as_share=True)
    np.testing.assert_allclose(share, SCORES / (SCORES + 0.1))
    np.testing.assert_allclose(2 * share - 1, profile.sink_versus_identity())


def test_sink_versus_identity() -> None:
    profile = scored()
    expected = (SCORES - 0.1) / (SCORES + 0.1)
    np.testing.assert_allclose(profile.sink_versus_identity(), expected)
    profile.data["sink_attention"][0, 0, 0] = 0
    profile.data["identity_score"][0, 0, 0] = 0
    found = profile.sink_versus_identity()
    assert np.isnan(found[0, 0, 0])
    assert int(found.isnull().sum()) == 1


@pytest.mark.parametrize("bound", ["entropy", "anisotropy", "dominance"])
def test_slack_and_tightness(bound: Any, llama_profile: mcr.Profile) -> None:
    profile = made_profile([2, 20, 30, 5])
    measured = profile.data["matrix_entropy" if bound == "entropy" else bound]
    limit = profile.data[f"{bound}_bound"]
    sign = 1 if bound == "entropy" else -1
    xr.testing.assert_allclose(profile.slack(bound), (sign * (limit - measured)).rename(f"{bound}_slack"))
    pair = np.stack([measured, limit])
    np.testing.assert_allclose(profile.tightness(bound), pair.min(axis=0) / pair.max(axis=0))
    real = llama_profile.slack(bound)
    assert real.dims == ("prompt", "depth")
    assert (real >= -1e-6 * abs(llama_profile.data[f"{bound}_bound"])).all()
    tightness = llama_profile.tightness(bound)
    assert bool(((tightness > 0) & (tightness <= 1 + 1e-6)).all())


@pytest.mark.parametrize(
    "estimator",
    [{"preset": "layer-by-layer"}, {"center": True}, {"unit_rows": True}, {"alpha": 2.0}],
)
def test_no_slack_for_another_estimator(estimator: dict) -> None:
    raw: Any = ATTRIBUTES["estimator"]
    profile = made_profile([1, 2], estimator=raw | estimator)
    for call in (profile.slack, profile.tightness):
        with pytest.raises(mcr.InputError, match="raw estimator"):
            call("entropy")


def test_unknown_names() -> None:
    profile = scored()
    with pytest.raises(mcr.InputError, match="bound 'norm': use one of entropy, anisotropy, dominance"):
        profile.slack("norm")  # type: ignore[arg-type]
    with pytest.raises(mcr.InputError, match=r"no variable 'sink_rat' .*did you mean .*'sink_score'"):
        profile["sink_rat"]
    with pytest.raises(mcr.InputError, match="no variable 'sink_score'"):
        mcr.Profile(profile.data.drop_vars("sink_score")).sink_rate()
    with pytest.raises(mcr.InputError, match="dimension depth, prompt is missing"):
        mcr.Profile(xr.Dataset())


def test_curves_over_prompts() -> None:
    profile = made_profile([1, 20, 30, 5], sink_score=RNG.uniform(size=(5, 3, 4)), n_prompts=5)
    data = profile.data
    for name, values in {
        "norm_ratio": data.norm_ratio.values,
        "mixing_score": data.mixing_score.values.mean(axis=2),
        "sink_rate": (data.sink_score.values > 0.3).mean(axis=2),
    }.items():
        curve = profile.over_prompts(name, 0.1, 0.9)
        np.testing.assert_allclose(curve["mean"], values.mean(axis=0))
        np.testing.assert_allclose(curve["low"], np.quantile(values, 0.1, axis=0))
        np.testing.assert_allclose(curve["high"], np.quantile(values, 0.9, axis=0))


def test_summary_has_a_row_a_depth(llama_profile: mcr.Profile) -> None:
    table = llama_profile.summary()
    data = llama_profile.data
    assert table.index.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(table.norm_ratio, data.norm_ratio.values.mean(axis=0))
    np.testing.assert_allclose(table.mixing_score[:3], data.mixing_score.values.mean(axis=(0, 2)))
    np.testing.assert_allclose(table.sink_rate[:3], (data.sink_score.values > 0.3).mean(axis=(0, 2)))
    assert np.isnan(table.sink_rate[3])  # no layer reads the last depth


def test_a_saved_profile_is_the_same(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    found = mcr.Profile.load(llama_profile.save(tmp_path / "run.nc"))
    xr.testing.assert_identical(found.data, llama_profile.data)
    assert repr(found) == repr(llama_profile)


# Putting profiles together


def test_along_prompts(tmp_path: Path) -> None:
    a, b = made_profile([1, 2, 3]), made_profile([4, 5, 6], n_prompts=3)
    joined = mcr.Profile.concat([a, b], "prompt")
    assert joined.data.sizes["prompt"] == 5
    assert joined.data.prompt.values.tolist() == [0, 1, 2, 3, 4]
    assert joined.data.n_tokens.values.tolist() == [8, 9, 8, 9, 10]
    for name in a.data.data_vars:
        expected = np.concatenate([a.data[name], b.data[name]])
        np.testing.assert_array_equal(joined.data[name], expected, err_msg=str(name))
    assert len(joined.data.attrs["prompts"]) == 2
    xr.testing.assert_identical(mcr.Profile.load(joined.save(tmp_path / "run.nc")).data, joined.data)
    assert "5 prompts" in repr(joined)


def test_joined_profiles_can_be_joined_again() -> None:
    a = made_profile([1, 2, 3])
    both = mcr.Profile.concat([a, a], "prompt")
    assert mcr.Profile.concat([both, a], "prompt").data.sizes["prompt"] == 6
    for dim in ("step", "arm", "model"):
        assert mcr.Profile.concat([both, both], dim, labels=[1, 2]).data.sizes[dim] == 2


@pytest.mark.parametrize(("dim", "labels"), [("step", [0, 1000]), ("arm", ["baseline", "treatment"])])
def test_along_a_new_dimension(dim: Any, labels: list, tmp_path: Path) -> None:
    a, b = made_profile([1, 2, 3]), made_profile([4, 5, 6])
    joined = mcr.Profile.concat([a, b], dim, labels)
    assert joined.data[dim].values.tolist() == labels
    for profile, label in ((a, labels[0]), (b, labels[1])):
        part = joined.data.sel({dim: label}, drop=True)
        for name in a.data.data_vars:
            np.testing.assert_array_equal(part[name], profile.data[name], err_msg=str(name))
    assert [made["model"] for made in joined.data.attrs["members"]] == ["made by hand"] * 2
    loaded = mcr.Profile.load(joined.save(tmp_path / "run.nc"))
    xr.testing.assert_identical(loaded.data, joined.data)
    assert f"2 {dim}s" in repr(joined)
    assert "select one" in repr(joined)
    assert "<table" in joined._repr_html_()
    one = mcr.Profile(joined.data.sel({dim: labels[1]}))
    assert one.phases(confidence=None) == b.phases(confidence=None)
    with pytest.raises(mcr.InputError, match=f"select one {dim}"):
        joined.phases()


def test_models_of_different_depth() -> None:
    a = made_profile([1, 2, 3], model="a")
    b = made_profile([4, 5, 6, 7, 8], model="b", prompts={"digest": "another tokenizer"})
    joined = mcr.Profile.concat([a, b], "model")
    assert joined.data.model.values.tolist() == ["a", "b"]
    assert joined.data.sizes["depth"] == 5
    short = joined.data.sel(model="a").norm_ratio
    np.testing.assert_array_equal(short[:, :3], a.data.norm_ratio)
    assert short[:, 3:].isnull().all()
    np.testing.assert_array_equal(joined.data.sel(model="b").norm_ratio, b.data.norm_ratio)
    # A depth that a model does not have is no depth without sinks.
    assert joined.sink_rate().sel(model="a")[:, 2:].isnull().all()


def test_models_that_were_followed_through_training() -> None:
    """Two dimensions of several profiles: shown in one table, a column a profile."""
    followed = [
        mcr.Profile.concat([made_profile([n, n + 1], model=str(n)) for _ in range(2)], "step", [0, 512])
        for n in (1, 5)
    ]
    joined = mcr.Profile.concat(followed, "model", ["a", "b"])
    table = joined.table()
    assert table.columns.tolist() == [("a", 0), ("a", 512), ("b", 0), ("b", 512)]
    assert table.values.tolist() == [[1, 1, 5, 5], [2, 2, 6, 6]]
    assert "2 models, 2 steps" in repr(joined) and "512" in joined._repr_html_()


def test_the_order_of_profiles_is_kept() -> None:
    parts = [made_profile([step, step + 1]) for step in (5, 1, 3)]
    joined = mcr.Profile.concat(parts, "step", labels=[512, 0, 64])
    assert joined.data.step.values.tolist() == [512, 0, 64]
    assert joined.data.norm_ratio.mean("prompt").sel(depth=0).values.tolist() == [5, 1, 3]


@pytest.mark.parametrize(
    ("dim", "change", "match"),
    [
        ("prompt", {"model": "b"}, "differ in model"),
        ("prompt", {"revision": "step1"}, "differ in revision"),
        ("prompt", {"load_options": {"n_ctx": "64"}}, "differ in load_options"),
        ("prompt", {"sink_position": 1}, "differ in sink_position"),
        ("model", {"sink_position": 1}, "differ in sink_position"),
        ("step", {"estimator": {"preset": "layer-by-layer"}}, "differ in estimator"),
        ("step", {"prompts": {"digest": "1"}}, "same prompts"),
        ("arm", {"prompts": {"digest": "1"}}, "same prompts"),
    ],
)
def test_what_cannot_stand_together(dim: Any, change: dict, match: str) -> None:
    profiles = [made_profile([1, 2]), made_profile([1, 2], **change)]
    with pytest.raises(mcr.InputError, match=match):
        mcr.Profile.concat(profiles, dim, labels=["a", "b"])


def test_labels_and_dimensions_that_do_not_fit() -> None:
    a = made_profile([1, 2])
    with pytest.raises(mcr.InputError, match="dim 'layer'"):
        mcr.Profile.concat([a, a], "layer")  # type: ignore[arg-type]
    with pytest.raises(mcr.InputError, match="at least one"):
        mcr.Profile.concat([], "prompt")
    for labels in (None, ["a"], ["a", "a"], ["a", "b", "c"]):
        with pytest.raises(mcr.InputError, match="one different label a profile"):
            mcr.Profile.concat([a, a], "step", labels)
    with pytest.raises(mcr.InputError, match="not of one model"):
        mcr.Profile.concat([made_profile([1, 2, 3]), a], "prompt")


# Reading a profile


def test_repr_says_what_and_how_much() -> None:
    text = repr(made_profile([1, 200, 300, 5], [0.9, 0.2, 0.1, 0.8], n_prompts=3))
    lines = text.split("\n")
    assert lines[0] == "Profile of made by hand, 3 prompts of up to 10 tokens, 3 layers x 4 heads"
    assert lines[1] == "Mix depth 0, Compress depths 1-2 (kappa 0.89 at depth 2), Refine depth 3"
    assert [line[:7] for line in lines[2:4]] == ["Beware:"] * 2  # few prompts, and short ones
    assert len(lines) == 5 + 2 + 4  # a header of two lines and a line a depth
    assert "no compression phase" in repr(made_profile([1, 1.1, 1.2]))


def test_html_is_escaped() -> None:
    profile = made_profile([1, 2], model="<script>alert('&')</script>")
    text = profile._repr_html_()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "<table" in text


def test_html_of_labels_is_escaped() -> None:
    a = made_profile([1, 2])
    text = mcr.Profile.concat([a, a], "arm", ["<script>x</script>", "b"])._repr_html_()
    assert "<script>" not in text


def test_a_profile_without_patterns_or_writes_can_be_read() -> None:
    """What is left when the self-check failed."""
    data = made_profile([1, 2, 3]).data
    kept = [name for name in data.data_vars if set(data[name].dims) == {"prompt", "depth"}]
    profile = mcr.Profile(data[kept].drop_vars(["layer", "head"], errors="ignore"))
    assert "sink_rate" not in profile.summary()
    assert "2 layers" in repr(profile)
    assert "<table" in profile._repr_html_()
    with pytest.raises(mcr.InputError, match="no writes"):
        profile.emergence_layers()
    with pytest.raises(mcr.InputError, match="no writes"):
        profile.dissipation_layers()


def test_thresholds_are_handed_on() -> None:
    profile = made_profile([1, 8, 8, 2], [0.9, 0.85, 0.85, 0.9])
    assert profile.phases().compress is None
    assert profile.phases(min_compression=0.05).compress == (1, 2)
    assert profile.emergence_layers() == []
    assert profile.emergence_layers(min_compression=0.05) == [0]
    assert profile.dissipation_layers(min_compression=0.05) == [2]
    assert profile.dissipation_layers(min_compression=0.05, min_share=0.9) == []


def test_derived_variables_are_read_by_name() -> None:
    profile = made_profile([1, 8, 8, 2], d_model=64)
    for name in ("sink_compression", "mass_share", "half_length", "reach"):
        assert profile[name].equals(getattr(phases, name)(profile.data))
        assert profile.over_prompts(name)["mean"].dims == ("depth",)
    assert profile["sink_rate"].equals(profile.sink_rate())


def test_what_is_read_off_a_profile_is_what_the_functions_say() -> None:
    """Options are handed on; what there is to know stands in tests/phases."""
    profile = scored()
    data = profile.data
    options: Any = {"confidence": 0.8, "n_resamples": 99, "seed": 3}
    found = profile.phases(**options, min_compression=0.2)
    assert found == phases.find_phases(data, 0.2, **options)
    assert found.intervals is not None and profile.phases(confidence=None).intervals is None
    points = profile.change_points(penalty=0.3, **options)
    assert (points.penalty, points.confidence, points.n_resamples, points.seed) == (0.3, 0.8, 99, 3)
    for made, expected in (
        (profile.correlations(**options), phases.correlations(data, **options)),
        (profile.constancy(min_share=0.5), phases.constancy(data, min_share=0.5)),
    ):
        pd.testing.assert_frame_equal(made, expected)
        assert made.attrs == expected.attrs


def test_what_sigma_1_is_made_of(llama_profile: mcr.Profile) -> None:
    table = llama_profile.first_singular_value(seed=1, n_resamples=99)
    expected = phases.first_singular_value(llama_profile.data, seed=1, n_resamples=99)
    pd.testing.assert_frame_equal(table, expected)
