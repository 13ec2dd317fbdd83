"""Effects, intervals and corrections against brute force, scipy, hand-computed numbers and simulation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mcr_lens.errors import InputError
from mcr_lens.stats.paired import adjusted, paired_effect

NAN = float("nan")
LEVELS = (0.01, 0.05, 0.2)

# Symmetric about 0, so that the null hypothesis holds.
SYMMETRIC: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "cauchy": lambda rng, n: rng.standard_cauchy(n),
    "ties and zeros": lambda rng, n: 0.1 * rng.integers(-2, 3, n),
    "equal sizes": lambda rng, n: 0.3 * rng.choice([-1.0, 1.0], n),
    "unequal spreads": lambda rng, n: rng.normal(size=n) * 10.0 ** np.arange(n),
}


def enumerated_p(differences: list[int]) -> float:
    """The definition, in whole numbers."""
    observed = abs(sum(differences))
    sums = [sum(g * d for g, d in zip(signs, differences, strict=True)) for signs in _signs(differences)]
    return sum(abs(total) >= observed for total in sums) / len(sums)


def _signs(differences: list[int]) -> list[tuple[int, ...]]:
    return list(product((-1, 1), repeat=len(differences)))


def null_p_values(draw: Callable[[np.random.Generator, int], np.ndarray], n: int, sets: int) -> np.ndarray:
    """P-values of many data sets without an effect; 255 resamples: exact up to 8 prompts."""
    rng = np.random.default_rng(n)
    return np.array(
        [paired_effect(draw(rng, n), np.zeros(n), n_resamples=255, seed=i).p for i in range(sets)]
    )


def test_an_effect_is_treated_minus_baseline_over_complete_pairs() -> None:
    treated = np.array([3.0, 5.0, NAN, 9.0, 1.0, 4.0])
    baseline = np.array([1.0, 2.0, 7.0, NAN, 2.0, 0.5])
    effect = paired_effect(treated, baseline)
    used = np.array([2.0, 3.0, -1.0, 3.5])
    assert (effect.n, effect.left_out) == (4, 2)
    assert effect.mean == pytest.approx(1.875)
    assert effect.standardized == pytest.approx(1.875 / used.std(ddof=1))
    assert used.min() <= effect.low < effect.mean < effect.high <= used.max()
    assert effect.p == enumerated_p([4, 6, -2, 7])
    swapped = paired_effect(baseline, treated)
    assert (swapped.mean, swapped.standardized) == (-effect.mean, -effect.standardized)
    assert swapped.p == effect.p


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8), st.sampled_from([1e-9, 0.1, 1.0, 1 / 3, 1e9]))
def test_p_is_the_share_of_all_sign_flips_at_least_as_large(differences: list[int], unit: float) -> None:
    """In whole numbers ties are ties; in units that binary numbers cannot hold they must be too."""
    effect = paired_effect(unit * np.array(differences), np.zeros(len(differences)), n_resamples=255)
    assert effect.p == enumerated_p(differences)
    assert effect.p >= effect.smallest_p == 2.0 ** (1 - len(differences))


@pytest.mark.parametrize("positive", range(11))
def test_differences_equal_in_size_give_the_sign_test(positive: int) -> None:
    """Their rounding errors come from the subtraction, as they do in practice."""
    rng = np.random.default_rng(positive)
    baseline = rng.normal(size=10)
    treated = baseline + 0.1 * np.where(np.arange(10) < positive, 1, -1)
    expected = stats.binomtest(positive, 10).pvalue
    assert paired_effect(treated, baseline).p == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [10, 40])
def test_p_agrees_with_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    differences = rng.normal(0.4, 1.0, n)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=40_000, rng=rng
    ).pvalue
    found = paired_effect(differences, np.zeros(n), n_resamples=40_000).p
    error = 0.0 if n == 10 else 4 * float(np.sqrt(2 * expected / 40_000))
    assert found == pytest.approx(expected, rel=1e-12, abs=error)


def test_exact_where_all_flips_are_no_more_than_the_resamples_and_one() -> None:
    grows, zeros = np.arange(1.0, 9.0), np.zeros(8)
    exact, drawn = paired_effect(grows, zeros, n_resamples=255), paired_effect(grows, zeros, n_resamples=254)
    assert exact.p == exact.smallest_p == 2 / 256
    assert drawn.p >= drawn.smallest_p == 1 / 255
    many = paired_effect(np.arange(1.0, 65.0), np.zeros(64))
    assert many.p == many.smallest_p == 1 / 10_000


@pytest.mark.parametrize("draw", SYMMETRIC.values(), ids=SYMMETRIC.keys())
@pytest.mark.parametrize("n", [5, 8, 20])
def test_without_an_effect_small_p_values_are_no_more_frequent_than_they_say(
    draw: Callable[[np.random.Generator, int], np.ndarray], n: int
) -> None:
    p = null_p_values(draw, n, sets=2000)
    for level in LEVELS:
        assert (p <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / len(p)), level


@pytest.mark.parametrize(("n", "level"), [(5, 2 / 32), (8, 2 / 256), (8, 26 / 256), (20, 13 / 256)])
def test_without_ties_p_values_are_as_frequent_as_they_say(n: int, level: float) -> None:
    """At levels the test can attain: it is valid without being idle."""
    p = null_p_values(SYMMETRIC["cauchy"], n, sets=2000)
    assert (p <= level).mean() == pytest.approx(level, abs=3.5 * np.sqrt(level * (1 - level) / len(p)))


def test_an_effect_is_found() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.normal(0, 5, 64)
    effect = paired_effect(baseline + rng.normal(1.0, 1.0, 64), baseline)
    assert effect.p == effect.smallest_p
    assert 0 < effect.low < effect.mean < effect.high < 2
    assert effect.standardized == pytest.approx(1.0, abs=0.3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [0.1, -3.0])
def test_equal_differences_leave_no_doubt_about_the_mean(size: float) -> None:
    effect = paired_effect(np.full(12, size), np.zeros(12))
    assert effect.low == effect.high == effect.mean == size
    assert effect.standardized == np.sign(size) * np.inf
    assert effect.p == effect.smallest_p == 2.0**-11
    baseline = np.random.default_rng(0).normal(size=12)
    rounded = paired_effect(baseline + size, baseline)
    assert rounded.low == rounded.high == rounded.mean == pytest.approx(size)
    assert np.isinf(rounded.standardized) and rounded.p == rounded.smallest_p


@pytest.mark.filterwarnings("error")
def test_no_difference_at_all() -> None:
    same = np.random.default_rng(0).normal(size=64)
    effect = paired_effect(same, same)
    assert effect.low == effect.high == effect.mean == 0
    assert np.isnan(effect.standardized)
    assert effect.p == 1


@pytest.mark.filterwarnings("error")
def test_one_prompt_says_nothing_of_the_spread() -> None:
    effect = paired_effect([3.0, NAN], [1.0, 1.0])
    assert (effect.mean, effect.p, effect.smallest_p, effect.n) == (2.0, 1.0, 1.0, 1)
    assert np.isnan([effect.low, effect.high, effect.standardized]).all()


def test_the_same_seed_gives_the_same_effect() -> None:
    treated, baseline = np.random.default_rng(0).normal(size=(2, 30))
    assert paired_effect(treated, baseline, seed=3) == paired_effect(treated, baseline, seed=3)
    assert paired_effect(treated, baseline, seed=3).p != paired_effect(treated, baseline, seed=4).p


def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    treated, baseline = np.random.default_rng(0).normal(size=(2, 12))
    whole = paired_effect(treated, baseline)
    monkeypatch.setattr("mcr_lens.stats.bootstrap._BLOCK", 1000)
    assert paired_effect(treated, baseline) == whole


@pytest.mark.parametrize(
    ("treated", "baseline", "says"),
    [
        ([], [], "none of 0 prompts"),
        ([NAN, 1.0], [1.0, NAN], "none of 2 prompts"),
        ([1.0, 2.0], [1.0], r"treated \(2,\) and baseline \(1,\)"),
        ([[1.0]], [[1.0]], r"treated \(1, 1\)"),
        ([np.inf, 1.0, np.inf], [1.0, 1.0, np.inf], "2 of 3 differences are infinite"),
        ([1e308, 1.0], [-1e308, 1.0], "1 of 2 differences are infinite"),
    ],
)
def test_what_cannot_be_compared_is_refused(treated: list, baseline: list, says: str) -> None:
    with pytest.raises(InputError, match=says):
        paired_effect(treated, baseline)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # sorted: 0.005, 0.01, 0.03, 0.04; m / i: 4, 2, 4/3, 1; c = 1 + 1/2 + 1/3 + 1/4 = 25/12
        ("bh", [0.02, 0.04, 0.04, 0.02]),
        ("by", [0.02 * 25 / 12, 0.04 * 25 / 12, 0.04 * 25 / 12, 0.02 * 25 / 12]),
        ("holm", [0.03, 0.06, 0.06, 0.02]),
    ],
)
def test_adjusted_by_hand(method: str, expected: list[float]) -> None:
    p_values = [0.01, 0.04, 0.03, 0.005]
    np.testing.assert_allclose(adjusted(p_values, method), expected)  # type: ignore[arg-type]
    with_gaps = adjusted(np.array([[NAN, 0.01, 0.04], [0.03, NAN, 0.005]]), method)  # type: ignore[arg-type]
    np.testing.assert_allclose(with_gaps, [[NAN, *expected[:2]], [expected[2], NAN, expected[3]]])


@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.01, 0.02, 0.3, 0.9, 1.0]), max_size=12))
def test_holm_rejects_as_the_step_down_procedure_does(p_values: list[float]) -> None:
    found = adjusted(p_values, "holm")
    assert found.shape == (len(p_values),) and (found <= 1).all()
    for level in (0.0099, 0.0501, 0.0999, 0.5001):
        rejected = np.zeros(len(p_values), dtype=bool)
        for step, index in enumerate(np.argsort(p_values, kind="stable")):
            if p_values[index] > level / (len(p_values) - step):
                break
            rejected[index] = True
        np.testing.assert_array_equal(found <= level, rejected)


def test_by_is_the_default_and_one_look_needs_no_correction() -> None:
    np.testing.assert_array_equal(adjusted([0.01, 0.5]), adjusted([0.01, 0.5], "by"))
    for method in ("by", "bh", "holm"):
        np.testing.assert_array_equal(adjusted([NAN, 0.03], method), [NAN, 0.03])
        assert np.isnan(adjusted([NAN, NAN], method)).all()
        assert adjusted(0.03, method) == 0.03


def test_p_values_are_left_as_they_were() -> None:
    p_values = np.array([0.04, 0.01])
    adjusted(p_values)
    np.testing.assert_array_equal(p_values, [0.04, 0.01])


@pytest.mark.parametrize("method", ["by", "bh", "holm"])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_false_findings_over_many_correlated_outcomes(method: str, correlation: float) -> None:
    """20 outcomes of one set of prompts, none or half of them real, 2,000 times."""
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(2000, 1)), rng.normal(size=(2000, 20))
    z = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    real = np.arange(20) < 10
    level, error = 0.1, 3 * np.sqrt(0.1 * 0.9 / 2000)
    for effects in (0.0, 3.0):
        p_values = 2 * stats.norm.sf(np.abs(z + effects * real))
        found = np.array([adjusted(p, method) for p in p_values]) <= level  # type: ignore[arg-type]
        false = found & ~real if effects else found
        any_false = false.any(1).mean()
        false_share = (false.sum(1) / np.maximum(found.sum(1), 1)).mean()
        assert (any_false if method == "holm" else false_share) <= level + error
        if correlation == 0.0 and effects == 0.0:
            assert (p_values <= level).any(1).mean() > 0.8  # what not correcting would find
            if method != "by":
                assert any_false > level - error  # and no more timid than need be


def test_bad_corrections_are_refused() -> None:
    with pytest.raises(InputError, match="method 'bonferroni': use 'by', 'bh' or 'holm'"):
        adjusted([0.1], "bonferroni")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"p-values 0.1..1.5 must lie"):
        adjusted([0.1, 1.5, NAN])
