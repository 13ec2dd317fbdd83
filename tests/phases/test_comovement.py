"""Correlations along depth: right against scipy, honest under a true null, clear about few depths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from profiles import made_profile
from scipy import stats
from scipy.signal import lfilter

import mcr_lens as mcr
from mcr_lens.phases import correlations
from mcr_lens.stats.paired import adjusted
from mcr_lens.stats.shift_test import shift_test, shifted_correlations

ROWS = 6  # three outcomes, two methods; the same at either level


def random_profile(n_prompts: int = 5, n_layers: int = 9, seed: int = 0) -> mcr.Profile:
    rng = np.random.default_rng(seed)
    profile = made_profile([1] * (n_layers + 1), n_prompts=n_prompts)
    data = profile.data
    for name in ("sink_norm", "norm_ratio", "normalized_entropy"):
        data[name][:] = rng.uniform(0.1, 0.9, data[name].shape)
    for name in ("sink_score", "mixing_score"):
        data[name][:] = rng.uniform(size=data[name].shape)
    return profile


def changes(data: xr.Dataset, outcome: str, norm: str = "sink_norm") -> tuple[np.ndarray, np.ndarray]:
    """From the definitions: a layer's rate stands at the depth that it reads."""
    written = np.diff(np.log(data[norm].values), axis=1)
    if outcome == "normalized_entropy":
        return written, np.diff(data[outcome].values, axis=1)
    if outcome == "sink_rate":
        values = (data.sink_score.values > 0.3).mean(axis=2)
    else:
        values = data[outcome].values.mean(axis=2)
    return written[:, :-1], np.diff(values, axis=1)


@pytest.mark.parametrize("norm", ["sink_norm", "norm_ratio"])
def test_every_number_is_scipys(norm: Any) -> None:
    profile = random_profile()
    table = correlations(profile, norm=norm)
    for outcome in ("normalized_entropy", "sink_rate", "mixing_score"):
        x, y = changes(profile.data, outcome, norm)
        for method, name in (("pearson", "pearsonr"), ("spearman", "spearmanr")):
            scipys: Any = getattr(stats, name)
            pooled = table.loc["pooled", outcome, method]
            own = [float(scipys(a, b.round(12))[0]) for a, b in zip(x, y, strict=True)]
            assert pooled.r == pytest.approx(scipys(x.mean(0), y.mean(0).round(12))[0])
            single = table.loc["per prompt", outcome, method]
            assert single.r == pytest.approx(np.mean(own))
            assert single.sd == pytest.approx(np.std(own, ddof=1))
            assert single.low <= single.r <= single.high
            assert pooled.n_changes == single.n_changes == x.shape[1]
            assert pooled.n_prompts == single.n_prompts == 5
            assert pooled.smallest_p == single.smallest_p == pytest.approx(1 / x.shape[1])
    assert len(table) == 2 * ROWS
    assert table.attrs["norm"] == f"log {norm}"


def test_a_change_written_by_a_layer_meets_what_the_next_layer_sees() -> None:
    """Layer 3 writes the norm, entropy falls at depth 4, sinks are in layers 4 and 5, where mixing stops."""
    scores = np.full((2, 8, 4), 0.1)
    scores[:, 4:6] = 0.9
    profile = made_profile(
        [1] * 4 + [200] * 2 + [1] * 3, [0.9] * 4 + [0.1] * 2 + [0.9] * 3, sink_score=scores
    )
    profile.data["mixing_score"] = 1 - profile.data.sink_score
    table = profile.correlations(methods=["pearson"]).r.loc["pooled", :, "pearson"]
    assert table.to_numpy() == pytest.approx([-1, 1, -1])


def test_perfect_correlation_of_few_layers_is_not_significant() -> None:
    profile = made_profile([1, 1, 200, 200, 200, 1, 1], [0.9, 0.9, 0.1, 0.1, 0.1, 0.9, 0.9], n_prompts=20)
    row = profile.correlations().loc["pooled", "normalized_entropy", "pearson"]
    assert row.r == pytest.approx(-1)
    assert row.p >= row.smallest_p == pytest.approx(1 / 6)


def test_shifts_from_their_definition() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 7))
    round_, both_ways = shifted_correlations(x, y), shifted_correlations(x, y, mirrored=True)
    mirrored = np.concatenate([y, y[::-1]])
    for shift in range(7):
        assert round_[shift] == pytest.approx(np.corrcoef(x, np.roll(y, -shift))[0, 1])
    for shift in range(14):
        assert both_ways[shift] == pytest.approx(np.corrcoef(x, np.roll(mirrored, -shift)[:7])[0, 1])
    p, smallest = shift_test(x[None], y[None])
    shares = [(abs(r) >= abs(r[0]) - 1e-12).mean() for r in (round_, both_ways)]
    assert (p, smallest) == (pytest.approx(max(shares)), pytest.approx(1 / 7))


def autocorrelated(phi: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(size=(*shape[:-1], shape[-1] + 100))
    series: Any = lfilter([1.0], [1.0, -phi], noise, axis=-1)
    return series[..., 100:]


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", [10, 32])
@pytest.mark.parametrize("differences", [False, True])
def test_under_a_true_null_small_p_values_are_as_rare_as_they_say(
    phi: float, n: int, differences: bool
) -> None:
    """Independent series; neighbours are alike, in what changes or in the changes themselves."""
    sets = 1000
    rng = np.random.default_rng(n)
    x, y = (autocorrelated(phi, (sets, 1, n + differences), rng) for _ in range(2))
    if differences:
        x, y = np.diff(x), np.diff(y)
    p = np.array([shift_test(a, b)[0] for a, b in zip(x, y, strict=True)])
    for level in (0.05, 0.1, 0.2, 0.5):
        assert (p <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / sets)
    assert p.min() == pytest.approx(1 / n)  # and they do occur


def test_prompts_that_share_everything_are_no_evidence() -> None:
    """A hundred prompts that follow one pair of independent series find no more than one prompt does."""
    rng = np.random.default_rng(0)
    sets, n = 500, 12
    p = []
    for _ in range(sets):
        x, y = autocorrelated(0.5, (2, n), rng)
        alike = (series + 0.1 * rng.normal(size=(100, n)) for series in (x, y))
        p.append(shift_test(*alike)[0])
    for level in (0.1, 0.2):
        assert np.mean(np.array(p) <= level) <= level + 3 * np.sqrt(level * (1 - level) / sets)


def test_what_goes_together_is_found_when_there_are_depths_enough() -> None:
    rng = np.random.default_rng(0)
    x = autocorrelated(0.5, (1, 80), rng)
    p, smallest = shift_test(x, -x + 0.3 * rng.normal(size=x.shape))
    assert p == smallest == 1 / 80


def test_the_whole_table_under_a_true_null() -> None:
    """Through profiles: log norm and entropy as independent random walks, so that changes are noise."""
    p = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        profile = made_profile([1] * 21, n_prompts=4)
        walk = 0.3 * rng.normal(size=(2, 21)).cumsum(-1)
        profile.data["sink_norm"][:] = np.exp(walk[0] + 0.1 * rng.normal(size=(4, 21)))
        profile.data["normalized_entropy"][:] = walk[1] + 0.1 * rng.normal(size=(4, 21))
        table = profile.correlations(outcomes=["normalized_entropy"], n_resamples=9)
        p.append(table.p.to_numpy())
    for level in (0.1, 0.2):
        assert ((np.array(p) <= level).mean(0) <= level + 3 * np.sqrt(level * (1 - level) / len(p))).all()


def test_p_values_are_corrected_within_a_level_and_a_method() -> None:
    table = random_profile().correlations()
    for correction in ("holm", "by"):
        corrected = random_profile().correlations(correction=correction)
        for _, family in corrected.groupby(["level", "method"]):
            np.testing.assert_allclose(family.p_adjusted, adjusted(family.p, correction))
    assert (table.p_adjusted >= table.p).all()


def test_intervals_over_prompts_cover_the_correlation_of_all_prompts() -> None:
    """The population's mean changes are known; prompts scatter about them."""
    rng = np.random.default_rng(3)
    norm, entropy = np.cumsum(rng.normal(size=(2, 13)), axis=-1) * 0.2
    truth = np.corrcoef(np.diff(norm), np.diff(entropy))[0, 1]
    covered = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        profile = made_profile([1] * 13, n_prompts=16)
        profile.data["sink_norm"][:] = np.exp(norm + 0.02 * rng.normal(size=(16, 13)))
        profile.data["normalized_entropy"][:] = entropy + 0.02 * rng.normal(size=(16, 13))
        table = profile.correlations(outcomes=["normalized_entropy"], methods=["pearson"], n_resamples=299)
        row = table.loc["pooled", "normalized_entropy", "pearson"]
        covered.append(row.low <= truth <= row.high)
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 200)


def test_what_does_not_change_has_no_correlation() -> None:
    table = made_profile([1, 2, 9, 3, 4], [0.9] * 5).correlations()  # entropy, sinks and mixing are flat
    assert table.r.isna().all() and table.p.isna().all() and table.p_adjusted.isna().all()
    assert table.smallest_p.loc["pooled", "normalized_entropy", "pearson"] == 1 / 4


def test_too_few_depths_and_missing_values() -> None:
    short = random_profile(n_layers=2).correlations()
    assert short.r.isna().all() and short.smallest_p.isna().all()
    profile = random_profile()
    expected = profile.data.isel(prompt=slice(1, None))
    profile.data["sink_norm"][0, 3] = 0  # no logarithm: this prompt is left out
    table = profile.correlations()
    assert (table.n_prompts == 4).all()
    np.testing.assert_allclose(table.r, correlations(expected).r)
    profile.data["sink_norm"][:] = np.nan
    nothing = profile.correlations()
    assert nothing.r.isna().all() and (nothing.n_prompts == 0).all()


def test_one_prompt_has_no_interval() -> None:
    table = random_profile(n_prompts=1).correlations()
    assert table.r.notna().all()
    assert table[["low", "high", "sd"]].isna().to_numpy().all()


def test_without_attention_entropy_remains() -> None:
    profile = mcr.Profile(random_profile().data.drop_vars(["sink_score", "mixing_score"]))
    assert set(profile.correlations().index.get_level_values("outcome")) == {"normalized_entropy"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"norm": "rest"}, "norm 'rest': use 'sink_norm' or 'norm_ratio'"),
        ({"methods": ["kendall"]}, "methods .*kendall.*: use 'pearson', 'spearman' or both"),
        ({"methods": []}, "use 'pearson', 'spearman' or both"),
        ({"outcomes": []}, "no outcomes: give some of normalized_entropy, sink_rate, mixing_score"),
        ({"outcomes": ["heat"]}, "no variable 'heat' in this profile; there are"),
        ({"correction": "none"}, "method 'none': use"),
        ({"confidence": 0}, "confidence 0: use"),
    ],
)
def test_bad_input(options: dict, match: str) -> None:
    with pytest.raises(mcr.InputError, match=match):
        random_profile().correlations(**options)
