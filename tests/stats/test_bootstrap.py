"""Bootstrap intervals: they cover what they say, agree with scipy, and know missing prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mcr_lens.errors import InputError
from mcr_lens.stats.bootstrap import bootstrap_interval

NAN = float("nan")


def emergence(curves: np.ndarray) -> float:
    """A statistic of whole curves that takes few values: the first depth whose mean is above 1."""
    above = curves.mean(0) > 1
    return float(above.argmax()) if above.any() else NAN


@pytest.mark.parametrize(
    ("draw", "truth", "statistic"),
    [
        (lambda rng, size: rng.normal(size=size), 0.0, np.mean),
        (lambda rng, size: rng.standard_t(3, size=size), 0.0, np.mean),
        (lambda rng, size: rng.uniform(size=size), 0.5, np.mean),
        (lambda rng, size: rng.normal(size=size), 0.0, np.median),
    ],
    ids=["normal", "heavy tails", "uniform", "median"],
)
@pytest.mark.parametrize("n", [8, 20, 64])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_cover_the_truth_as_often_as_stated(
    draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray],
    truth: float,
    statistic: Callable[..., Any],
    n: int,
    confidence: float,
) -> None:
    """A column is a simulated set of prompts."""
    sets = 500
    values = draw(np.random.default_rng(n), (n, sets))
    low, high = bootstrap_interval(values, statistic, confidence=confidence, n_resamples=999)
    covered = ((low <= truth) & (truth <= high)).mean()
    assert covered >= confidence - 3 * np.sqrt(confidence * (1 - confidence) / sets)


def test_intervals_are_no_wider_than_need_be() -> None:
    """For normal values Student's interval is exact."""
    values = np.random.default_rng(0).normal(size=(20, 200))
    low, high = bootstrap_interval(values, n_resamples=1999)
    expected = 2 * stats.t.ppf(0.975, 19) * values.std(0, ddof=1) / np.sqrt(20)
    assert np.mean((high - low) / expected) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("n", [6, 30])
@pytest.mark.parametrize("statistic", [np.mean, np.median, np.std])
def test_the_interval_is_scipys_percentile_interval_at_expanded_tails(
    n: int, statistic: Callable[..., Any]
) -> None:
    values = np.random.default_rng(n).exponential(size=n)
    tail = float(stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.05, n - 1)))
    expected = stats.bootstrap(
        (values,), statistic, method="percentile", confidence_level=1 - 2 * tail, n_resamples=50_000, rng=0
    ).confidence_interval
    low, high = bootstrap_interval(values, statistic, confidence=0.9, n_resamples=50_000)
    width = expected.high - expected.low
    np.testing.assert_allclose([low, high], [expected.low, expected.high], atol=0.04 * width)


@pytest.mark.parametrize("statistic", [np.mean, np.nanmean, np.nanmedian])
def test_every_column_is_as_if_alone(statistic: Callable[..., Any]) -> None:
    values = np.random.default_rng(0).normal(size=(15, 3, 4))
    low, high = bootstrap_interval(values, statistic, n_resamples=500)
    assert low.shape == high.shape == (3, 4)
    for column in np.ndindex(3, 4):
        alone = bootstrap_interval(values[:, *column], statistic, n_resamples=500)
        np.testing.assert_allclose([low[column], high[column]], alone, rtol=1e-12)


@pytest.mark.parametrize("statistic", [np.mean, np.nanmedian])
def test_a_prompt_without_values_is_as_if_absent(statistic: Callable[..., Any]) -> None:
    values = np.random.default_rng(0).normal(size=(12, 5))
    with_gap = np.insert(values, [3, 12], NAN, axis=0)
    for found, expected in zip(
        bootstrap_interval(with_gap, statistic), bootstrap_interval(values, statistic), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.filterwarnings("error")
def test_a_missing_value_is_left_out_of_its_column_only() -> None:
    values = np.random.default_rng(0).normal(size=(40, 4))
    values[::2, 1], values[1:, 2], values[:, 3] = NAN, NAN, NAN
    low, high = bootstrap_interval(values, n_resamples=20_000)
    assert np.isnan([low[2], high[2], low[3], high[3]]).all()  # one value, no value
    for column in (0, 1):
        complete = values[~np.isnan(values[:, column]), column]
        alone = bootstrap_interval(complete, n_resamples=20_000)
        np.testing.assert_allclose([low[column], high[column]], alone, atol=0.08 * np.ptp(alone))


def test_means_with_missing_prompts_still_cover() -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.uniform(size=(24, 500)) < 0.3, NAN, rng.normal(size=(24, 500)))
    low, high = bootstrap_interval(values, n_resamples=999)
    assert ((low <= 0) & (0 <= high)).mean() >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 500)


def test_a_statistic_of_whole_curves() -> None:
    """Prompts whose norm rises at depth 2 or at depth 3; the ends are depths, not fractions."""
    rises = np.repeat([2, 3], [14, 6])[:, None]
    curves = np.where(np.arange(6) >= rises, 1.5, 0.1)
    low, high = bootstrap_interval(curves, emergence, n_resamples=999)
    assert (low, high) == (2.0, 3.0)
    assert bootstrap_interval(curves[:14], emergence, n_resamples=99) == (2.0, 2.0)


def test_with_and_without_axis_is_the_same_statistic() -> None:
    values = np.random.default_rng(0).normal(size=(9, 3))
    at_once = bootstrap_interval(values, np.median, n_resamples=300)
    one_by_one = bootstrap_interval(values, lambda sample: np.median(sample, 0), n_resamples=300)
    np.testing.assert_array_equal(at_once, one_by_one)


def test_resamples_without_the_statistic_are_left_out() -> None:
    curves = np.repeat([[0.0, 9.0], [0.0, 0.0]], [1, 3], axis=0)  # a third of resamples has no emergence
    assert bootstrap_interval(curves, emergence, n_resamples=500) == (1.0, 1.0)
    flat = bootstrap_interval(np.zeros((4, 2)), emergence, n_resamples=50)
    assert np.isnan(flat).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_equal_values_leave_no_doubt(statistic: Callable[..., Any]) -> None:
    low, high = bootstrap_interval(np.full((7, 2), 0.1), statistic)
    assert (low == 0.1).all() and (high == 0.1).all()


def test_more_confidence_is_a_wider_interval() -> None:
    values = np.random.default_rng(0).normal(size=30)
    widths = [
        float(np.subtract(*bootstrap_interval(values, confidence=level)[::-1])) for level in (0.5, 0.8, 0.99)
    ]
    assert widths == sorted(widths) and widths[0] < widths[2] / 2


def test_the_seed_decides_and_the_block_size_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(25, 2))
    first = np.array(bootstrap_interval(values, seed=1))
    assert (first != bootstrap_interval(values, seed=2)).any()
    monkeypatch.setattr("mcr_lens.stats.bootstrap._BLOCK", 1000)
    np.testing.assert_allclose(bootstrap_interval(values, seed=1), first, rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        (1.0, {}, "one number has no interval"),
        ([], {}, "no prompt has a value"),
        ([[NAN], [NAN]], {}, "no prompt has a value"),
        ([1.0, np.inf], {}, "1 values are infinite"),
        ([1.0, 2.0], {"confidence": 95}, "confidence 95: use a number between 0 and 1"),
        ([1.0, 2.0], {"n_resamples": 0}, "n_resamples 0: use a whole number"),
        ([1.0, 2.0], {"n_resamples": 1e4}, "n_resamples 10000.0: use a whole number"),
        ([1.0, 2.0], {"seed": -1}, "seed -1: use a whole number"),
    ],
)
def test_bad_input_is_refused(values: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        bootstrap_interval(values, **options)
