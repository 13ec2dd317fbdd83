"""Verdicts on many simulated sets of prompts at once: they and their intervals are as sure as they say."""

from __future__ import annotations

import numpy as np
import pytest

from mcr_lens.experiments.ablation.clusters import shared_tokens
from mcr_lens.experiments.ablation.verdicts import CANNOT, change, holm, removed_share
from mcr_lens.stats import bootstrap_interval, paired_effect

DRAWS, N, SD, RESAMPLES = 4000, 32, 0.25, 999


def verdicts(share: float, control: float | None = 0.0, sd: float = SD, draws: int = DRAWS) -> np.ndarray:
    """Of many sets of 32 prompts in which an arm and a control remove these shares, give or take ``sd``."""
    rng = np.random.default_rng(0)
    whole = rng.uniform(0.5, 0.9, (N, draws))  # sink rates of the baseline
    removed, *beside = (
        whole * (true + sd * rng.standard_normal((N, draws))) for true in (share, control) if true is not None
    )
    return removed_share(removed, whole, beside, n_resamples=RESAMPLES).verdicts(0.95)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "head rates", "clusters"])
def test_intervals_cover_as_often_as_they_say(kind: str) -> None:
    rng = np.random.default_rng(1)
    cluster, n = None, N
    if kind == "normal":
        values, truth = rng.standard_normal((n, DRAWS)), 0.0
    elif kind == "head rates":
        values, truth = rng.binomial(64, rng.beta(6, 4, (n, DRAWS))) / 64, 0.6
    else:
        cluster, n = np.repeat(range(16), 4), 64
        own = rng.standard_normal((n, DRAWS))
        values, truth = np.repeat(rng.standard_normal((16, DRAWS)), 4, axis=0) + 0.2 * own, 0.0
    low, high = bootstrap_interval(values, n_resamples=RESAMPLES, cluster=cluster)
    covered = ((low <= truth) & (truth <= high)).mean()
    print(f"{kind}: {covered:.4f} covered")
    assert 0.93 <= covered <= 0.96
    if cluster is not None:
        low, high = bootstrap_interval(values, n_resamples=RESAMPLES)
        singly = ((low <= truth) & (truth <= high)).mean()
        print(f"{kind}, prompts drawn singly: {singly:.4f} covered")
        assert singly < 0.75


@pytest.mark.slow
def test_an_end_is_found_where_it_is_and_not_where_it_is_not() -> None:
    wrong, power = ((verdicts(share) == "ends it").mean() for share in (0.45, 0.7))
    print(f"'ends it' at .45: {wrong:.4f}, at .7: {power:.4f}")
    assert wrong <= 0.02 and power > 0.85


@pytest.mark.slow
def test_a_control_that_does_nearly_as_much_makes_it_unspecific() -> None:
    """Measured at 55 % against 49 %, it never ends it; nor, but by chance, where both are truly at 90 %."""
    rng = np.random.default_rng(3)
    noise = SD * rng.standard_normal((2, N, DRAWS))
    shares = np.array([0.55, 0.49])[:, None, None] + noise - noise.mean(1, keepdims=True)
    row = removed_share(shares[0], np.ones((N, DRAWS)), [shares[1]], n_resamples=RESAMPLES)
    found = (row.verdicts(0.95) == "ends it").mean()
    alike = (verdicts(0.9, 0.9) == "ends it").mean()
    print(f"'ends it' at a measured 55 % and 49 %: {found:.4f}; at a true 90 % both: {alike:.4f}")
    assert found == 0 and alike <= 0.035


@pytest.mark.slow
def test_flips_by_cluster_are_as_rare_as_they_say() -> None:
    rng, cluster = np.random.default_rng(2), np.repeat(range(8), 4)
    sets = np.repeat(rng.standard_normal((8, DRAWS)), 4, axis=0) + 0.1 * rng.standard_normal((N, DRAWS))
    few = sets[:, :400].T
    p = [[paired_effect(d, 0 * d, n_resamples=199, cluster=c).p for d in few] for c in (cluster, None)]
    rates = [(np.array(each) <= 0.05).mean() for each in p]
    print(f"p <= .05 by cluster: {rates[0]:.3f}; singly: {rates[1]:.3f}")
    assert rates[0] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(few)) and rates[1] > 0.25


def one(share: float, control: float | None, spread: float = 0.01, n: int = 16) -> str:
    noise = spread * np.linspace(-1, 1, n)
    beside = [] if control is None else [control + noise[::-1]]
    return str(removed_share(share + noise, np.ones(n), beside).verdicts(0.95))


def test_the_four_verdicts_on_a_share() -> None:
    assert one(0.9, 0.1) == "ends it"
    assert one(0.9, 0.9) == "ends it, not specifically"
    assert one(0.9, 0.95) == "ends it, not specifically"
    assert one(0.3, 0.0) == "keeps it"
    assert one(0.5, 0.0, spread=0.3) == CANNOT
    assert one(0.9, None) == CANNOT  # no control
    assert one(0.9, 0.1, n=4) == CANNOT  # no test of four prompts can reach .05


def test_one_control_of_two_is_enough_to_make_it_unspecific() -> None:
    noise, whole = 0.01 * np.linspace(-1, 1, 16), np.ones(16)
    row = removed_share(0.9 + noise, whole, [0.1 - noise, 0.9 - noise])
    assert row.verdicts(0.95) == "ends it, not specifically"


def test_a_cost_is_one_beyond_the_control() -> None:
    noise = 0.02 * np.linspace(-1, 1, 16)
    for control, verdict in ((0.66, "costs loss, not specifically"), (0.1, "costs loss")):
        assert change("cost", 0.4 + noise, [control - noise]).verdicts(0.95) == verdict
    assert change("cost", noise - 0.2, [0.1 - noise]).verdicts(0.95) == "costs none"


def test_entropy_moves_either_way_or_stays() -> None:
    noise, zero = 0.01 * np.linspace(-1, 1, 16), 0.001 * np.linspace(1, -1, 16)
    assert change("move", noise - 0.3, [zero]).verdicts(0.95) == "moves it"
    assert change("move", noise - 0.3, [noise - 0.5]).verdicts(0.95) == "moves it, not specifically"
    assert change("move", noise + 0.3, [zero]).verdicts(0.95) == "moves it"
    assert change("move", noise - 0.02, [zero]).verdicts(0.95) == "leaves it"


def test_the_share_is_a_ratio_of_means() -> None:
    removed, whole = np.array([0.0, 8.0, 1.0]), np.array([1.0, 10.0, 1.0])
    assert float(removed_share(removed, whole, []).value) == pytest.approx(9 / 12)


def test_rows_are_judged_at_holms_level() -> None:
    """Four rows stand at 1 - .05 / 4; what is decided leaves the others more."""
    noise, whole = np.linspace(-1, 1, 16), np.ones(16)
    clear = [removed_share(0.9 + 0.01 * noise, whole, [0.01 * noise[::-1]]) for _ in range(3)]
    unclear = removed_share(0.5 + 0.3 * noise, whole, [0.01 * noise[::-1]])
    answers = holm([*clear, unclear])
    assert [verdict for verdict, _ in answers] == ["ends it"] * 3 + [CANNOT]
    assert [level for _, level in answers] == pytest.approx([1 - 0.05 / 4] * 3 + [0.95])


def test_how_many_tokens_prompts_share() -> None:
    assert shared_tokens([[1, 2, 3, 4], [1, 2, 3, 9], [5, 6, 7, 8]]) == 0.75
    assert shared_tokens([[1, 2]]) == 0
    assert shared_tokens([[1, 1, 1, 1], [1, 2, 3, 4]]) == 0.25
