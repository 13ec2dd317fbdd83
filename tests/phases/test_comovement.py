"""Correlations along depth: right against scipy, without p-values, clear about few depths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from profiles import made_profile
from scipy import stats

import mcr_lens as mcr
from mcr_lens.phases import correlations

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
    assert len(table) == 2 * ROWS
    assert list(table) == ["r", "low", "high", "sd", "n_changes", "n_prompts"]  # no p-value
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
    assert table.r.isna().all() and (table.n_changes.xs("normalized_entropy", level="outcome") == 4).all()


def test_too_few_depths_and_missing_values() -> None:
    short = random_profile(n_layers=2).correlations()
    assert short.r.isna().all()
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
        ({"confidence": 0}, "confidence 0: use"),
    ],
)
def test_bad_input(options: dict, match: str) -> None:
    with pytest.raises(mcr.InputError, match=match):
        random_profile().correlations(**options)
