"""Best depths and exits where the truth was set by hand, and where there is none to be found."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import norm

from mcr_lens.errors import InputError
from mcr_lens.experiments.tasks import (
    ChoiceResult,
    PerplexityResult,
    ProbeResult,
    Use,
    best_depth,
    quality_by_depth,
)


def answers(probabilities: list[float], n: int = 400, seed: int = 0, name: str = "made up") -> Use:
    """Right and wrong answers of n documents, each depth right with its own probability."""
    values = np.random.default_rng(seed).random((n, len(probabilities))) < np.array(probabilities)
    depths = np.arange(len(probabilities))
    return Use(name, "multiple choice", "accuracy", depths, values.astype(float), np.ones(n), 0.25)


def losses(levels: list[float], n: int = 50, seed: int = 0) -> Use:
    rng = np.random.default_rng(seed)
    values = np.array(levels) + 0.1 * rng.normal(size=(n, 1))  # hard and easy documents, alike at all depths
    weights = rng.integers(10, 100, n).astype(float)
    return Use("text", "generation", "loss", np.arange(len(levels)), values, weights, 7.0)


def test_a_best_depth_set_by_hand_is_found_with_its_gain() -> None:
    table: Any = best_depth([answers([0.25, 0.5, 0.9, 0.7, 0.6]), losses([7, 6, 4, 3, 2])])
    choice, text = table.loc["made up"], table.loc["text"]
    assert (choice.best_depth, choice.best_low, choice.best_high) == (2, 2, 2)
    assert choice.gain == pytest.approx(0.3, abs=0.06)
    assert 0.2 < choice.gain_low < choice.gain < choice.gain_high < 0.4
    assert (text.best_depth, text.last_depth) == (4, 4)
    assert (text.gain, text.gain_low, text.gain_high) == (0, 0, 0)


def test_the_exit_is_the_first_depth_that_keeps_enough_above_chance() -> None:
    use = losses([7.0, 5.0, 3.0, 2.25, 2.0])  # kept of the last: 0, 0.4, 0.8, 0.95, 1
    exact = Use(
        use.name, use.kind, use.metric, use.depths, use.values * 0 + [7, 5, 3, 2.25, 2], use.weights, 7.0
    )
    for keep, depth in ((0.3, 1), (0.8, 2), (0.9, 3), (1.0, 4)):
        row: Any = best_depth([exact], keep).loc["text"]
        assert (row.exit_depth, row.exit_low, row.exit_high, row.blocks_saved) == (
            depth,
            depth,
            depth,
            4 - depth,
        )
        assert row.saved == (4 - depth) / 4
    kept = quality_by_depth([exact]).kept
    np.testing.assert_allclose(kept, [0, 0.4, 0.8, 0.95, 1])


def test_where_all_depths_are_equal_the_best_gains_nothing() -> None:
    """The best of 30 equal depths looks better on the units that chose it; not on others."""
    naive, gains, covered = [], [], 0
    for seed in range(40):
        use = answers([0.5] * 30, n=100, seed=seed)
        row: Any = best_depth([use], n_resamples=200).loc["made up"]
        naive.append(row.best_quality - row.last_quality)
        gains.append(row.gain)
        covered += row.gain_low <= 0 <= row.gain_high
    assert np.mean(naive) > 0.08
    assert abs(np.mean(gains)) < 0.03
    assert covered >= 36


def test_without_anything_above_chance_there_is_no_exit() -> None:
    row: Any = best_depth([answers([0.2] * 4)]).loc["made up"]
    assert row.exit_depth is pd.NA and row.blocks_saved is pd.NA


def test_documents_weigh_as_much_as_their_tokens() -> None:
    data = xr.Dataset(
        {"lens_loss": (("prompt", "depth"), [[4.0, 2.0], [8.0, 6.0], [1.0, 1.0]])},
        coords={"document": ("prompt", [0, 0, 1]), "n_tokens": ("prompt", [3, 7, 5]), "depth": [0, 1]},
        attrs={"d_vocab": 100},
    )
    use = PerplexityResult(data).uses()[0]
    np.testing.assert_allclose(use.values, [[7.0, 5.0], [1.0, 1.0]])
    assert use.weights.tolist() == [8, 4]
    np.testing.assert_allclose(use.curve(), [(8 * 7 + 4) / 12, (8 * 5 + 4) / 12])
    assert use.chance == pytest.approx(np.log(100))


def questions(metric: str = "acc", **about: Any) -> xr.Dataset:
    """Two questions with four choices, two with two, all asked twice over, and two without choices."""
    right = [[0.0, 1], [1, 1], [0, 1], [1, 0], [0, 0], [1, 1]]
    likelihood = np.zeros((6, 2, 8))
    likelihood[2:4, :, 4:] = np.nan
    likelihood[4:, :, 1:] = np.nan
    return xr.Dataset(
        {
            metric: (("document", "depth"), right),
            "log_likelihood": (("document", "depth", "choice"), likelihood),
        },
        coords={
            "task": ("document", ["four", "four", "two", "two", "word", "word"]),
            "n_choices": ("document", [4, 4, 2, 2, 0, 0]),
            "depth": [0, 3],
        },
        attrs={"tasks": dict.fromkeys(("four", "two", "word"), about)},
    )


def test_tasks_of_choices_are_kept_apart_and_chance_is_theirs() -> None:
    four, two, word = ChoiceResult(questions()).uses()
    assert (four.name, four.chance, two.name, two.chance) == ("four", 0.25, "two", 0.5)
    assert word.name == "word" and np.isnan(word.chance)
    assert four.curve().to_dict() == {0: 0.5, 3: 1.0}
    row: Any = best_depth([word]).loc["word"]
    assert row.best_depth == 0 and row.exit_depth is pd.NA
    with pytest.raises(InputError, match="these results have acc"):
        ChoiceResult(questions()).uses("f1")


def test_chance_is_not_guessed_where_one_over_the_choices_is_not_it() -> None:
    assert all(np.isnan(use.chance) for use in ChoiceResult(questions("exact_match")).uses("exact_match"))
    assert all(np.isnan(use.chance) for use in ChoiceResult(questions(several_right=True)).uses())
    assert ChoiceResult(questions("acc_mutual_info")).uses("acc_mutual_info")[0].chance == 0.25
    assert all(np.isnan(use.chance) for use in ChoiceResult(questions().drop_vars("n_choices")).uses())


def test_what_is_no_accuracy_is_not_called_one() -> None:
    with pytest.raises(InputError, match=r"'errors' of task 'four' is no accuracy \(lower is better\)"):
        ChoiceResult(questions("errors", higher_is_better={"errors": False})).uses("errors")
    shares = questions()
    shares["acc"] = shares.acc * 0.7
    with pytest.raises(InputError, match="other values than 0 and 1"):
        ChoiceResult(shares).uses()
    assert len(ChoiceResult(questions(higher_is_better={"acc": True, "perplexity": False})).uses()) == 3


def probed(correct: np.ndarray, group: Any) -> xr.Dataset:
    """What ``linear_probes`` returns of it, (pooling, depth, prompt)."""
    return xr.Dataset(
        {
            "correct": (("pooling", "depth", "prompt"), correct),
            "majority_correct": ("prompt", np.arange(correct.shape[2]) % 2),
        },
        coords={
            "pooling": ["mean", "mean_without_sink"][: len(correct)],
            "depth": range(correct.shape[1]),
            "group": ("prompt", group),
        },
    )


def test_each_pooling_of_a_probe_is_a_use() -> None:
    correct = np.arange(18).reshape(2, 3, 3) % 2
    first, second = ProbeResult(probed(correct, [7, 9, 8])).uses("sst2")
    assert (first.name, second.name) == ("sst2, mean", "sst2, mean without sink")
    np.testing.assert_array_equal(first.values, correct[0].T[[0, 2, 1]])
    np.testing.assert_array_equal(second.curve(), correct[1].mean(1))
    assert first.chance == pytest.approx(1 / 3)


def test_a_group_of_probed_prompts_is_one_unit() -> None:
    correct = np.array([[[1, 0, 0, 1, 1], [0, 0, 1, 1, 1]]])
    (use,) = ProbeResult(probed(correct, [3, 3, 1, 1, 1])).uses()
    np.testing.assert_allclose(use.values, [[2 / 3, 1], [1 / 2, 0]])
    assert use.weights.tolist() == [3, 2]
    np.testing.assert_allclose(use.curve(), [3 / 5, 3 / 5])


@pytest.mark.parametrize("copies", [1, 4])
def test_copies_in_a_group_do_not_make_a_flat_curve_gain(copies: int) -> None:
    """Were copies resampled one by one, they would be judged by what they themselves chose."""
    rng = np.random.default_rng(1)
    gained, widths = 0, []
    for _ in range(60):
        correct = np.repeat(rng.random((1, 9, 25)) < 0.7, copies, axis=2).astype(int)
        (use,) = ProbeResult(probed(correct, np.repeat(range(25), copies))).uses()
        row: Any = best_depth([use], 0.9, n_resamples=199).loc["probe, mean"]
        gained += row.gain_low > 0
        table = quality_by_depth([use], n_resamples=199)
        widths.append((table.high - table.low).mean())
    assert gained <= 2
    assert 0.3 < np.mean(widths) < 0.45  # of a share of 0.7 among 25: four standard errors are 0.37


PEAKED = [0.3, 0.35, 0.4, 0.5, 0.9, 0.5, 0.4, 0.35, 0.3]
BROAD = [0.5, 0.6, 0.7, 0.78, 0.8, 0.79, 0.76, 0.73, 0.7]
RISING = [0.5, 0.5, 0.5, 0.5, 0.55, 0.6, 0.65, 0.68, 0.7]


@pytest.mark.parametrize("n", [8, 20])
@pytest.mark.parametrize("probabilities", [PEAKED, BROAD, RISING])
def test_the_interval_covers_the_best_depth_with_few_units(probabilities: list[float], n: int) -> None:
    """Questions are easy or hard at all depths alike, in part; few of them tie many depths."""
    rng, sets, best = np.random.default_rng(n), 100, int(np.argmax(probabilities))
    levels, covered, widths = norm.ppf(probabilities), 0, []
    for _ in range(sets):
        values = 0.8 * rng.normal(size=(n, 1)) + 0.6 * rng.normal(size=(n, 9)) < levels
        use = Use("x", "multiple choice", "accuracy", np.arange(9), values.astype(float), np.ones(n), 0.25)
        row: Any = best_depth([use], n_resamples=299).iloc[0]
        assert row.best_low <= row.best_depth <= row.best_high
        covered += row.best_low <= best <= row.best_high
        widths.append(row.best_high - row.best_low)
    assert covered >= sets * 0.95 - 3 * np.sqrt(sets * 0.95 * 0.05)
    assert probabilities is not PEAKED or n == 8 or np.mean(widths) < 1


def test_depths_that_tie_are_equally_best() -> None:
    """Depths 2 and 4 answer the same questions: neither is better, whichever comes first."""
    values = np.zeros((30, 6))
    values[:20, 2] = values[:20, 4] = 1
    use = Use("x", "multiple choice", "accuracy", np.arange(6), values, np.ones(30), 0.25)
    row: Any = best_depth([use]).loc["x"]
    assert (row.best_depth, row.best_low, row.best_high) == (2, 2, 4)


def test_bad_input_is_told() -> None:
    use = answers([0.5, 0.6])
    for options, message in (({"keep": 0}, "share above 0"), ({"confidence": 2}, "between 0 and 1")):
        with pytest.raises(InputError, match=message):
            best_depth([use], **options)
    with pytest.raises(InputError, match="no uses"):
        best_depth([])
    with pytest.raises(InputError, match="another name"):
        quality_by_depth([use, use])
    with pytest.raises(InputError, match="two depths or more"):
        answers([0.5])
    with pytest.raises(InputError, match="one unit has no interval"):
        best_depth([answers([0.5, 0.6], n=1)])
    with pytest.raises(InputError, match="NaN"):
        Use("x", "embedding", "accuracy", np.arange(2), np.full((3, 2), np.nan), np.ones(3), 0.5)
