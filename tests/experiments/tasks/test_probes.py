"""Linear probes: planted answers found, nothing found in noise, and no test data in training."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.experiments.tasks import ProbeResult, linear_probes
from mcr_lens.experiments.tasks.probe_folds import (
    Fold,
    clusters,
    cross_validation,
    fit_probes,
    fixed_split,
)
from mcr_lens.hooks.observers.pooled_states import PooledStates
from mcr_lens.prompts.labelled import load_labelled

try:
    import sklearn
except ImportError:
    sklearn = None
needs_scikit_learn = pytest.mark.skipif(sklearn is None, reason="needs scikit-learn, of the extra [tasks]")


def drawn(n: int, seed: int = 0, length: int = 8) -> mcr.Prompts:
    rng = np.random.default_rng(seed)
    return mcr.Prompts.from_tokens([[1, *rng.integers(3, 64, length - 1).tolist()] for _ in range(n)])


def planted(n: int, seed: int = 0) -> tuple[mcr.Prompts, list[str]]:
    """The label is a token in the middle: in every mean, and in no last embedding."""
    rng = np.random.default_rng(seed)
    labels = ["good" if number % 2 else "bad" for number in range(n)]
    told = [[60] * 3 if label == "good" else [61] * 3 for label in labels]
    rows = [[1, *rng.integers(3, 50, 2).tolist(), *tokens, 5] for tokens in told]
    return mcr.Prompts.from_tokens(rows), labels


@needs_scikit_learn
def test_a_planted_label_is_found_where_it_is_and_not_where_it_is_not(llama: Any) -> None:
    data = linear_probes(llama, *planted(80), C=0.1, progress=False).data
    accuracy = data.accuracy.mean("fold")
    assert data.accuracy.dims == ("pooling", "depth", "fold") and data.accuracy.shape == (3, 4, 5)
    assert (accuracy.sel(pooling=["mean", "mean_without_sink"], depth=[0, 1]) == 1).all()
    # The last token's embedding is the same for all prompts; a block later attention has read the label.
    assert accuracy.sel(pooling="last", depth=0) == 0.5
    assert accuracy.sel(pooling="last", depth=1) > 0.9
    assert (np.abs(data.shuffled_correct.mean("prompt") - 0.5) < 0.25).all()
    assert data.shuffled_accuracy.mean() < 0.6
    assert data.attrs["classes"] == ["bad", "good"]


@needs_scikit_learn
def test_noise_gives_chance_and_intervals_that_cover_it(llama: Any) -> None:
    covered = []
    for seed in range(10):
        labels = np.random.default_rng(seed + 100).permutation([0, 1] * 30)
        data = linear_probes(llama, drawn(60, seed), labels, C=0.01, depths=[0, 3], progress=False).data
        table = ProbeResult(data).summary(n_resamples=999)
        covered += ((table.low <= 0.5) & (table.high >= 0.5)).tolist()
        assert 0.2 < table.accuracy.mean() < 0.8
    assert np.mean(covered) > 0.8


@needs_scikit_learn
def test_numbers_agree_with_one_another_and_with_a_probe_written_out(llama: Any) -> None:
    from sklearn.linear_model import LogisticRegression

    prompts, labels = drawn(50), [number % 3 for number in range(50)]
    data = linear_probes(llama, prompts, labels, C=0.1, pooling="mean", depths=[2], progress=False).data
    states = mcr.measure(llama, prompts, [PooledStates(llama, "mean", depths=[2])], progress=False)
    x, y = states.pooled_state.values[:, 0, 0].astype(np.float64), np.array(labels)
    for fold in range(5):
        tested = data.fold_tested.values == fold
        mean, spread = x[~tested].mean(0), x[~tested].std(0)
        regression = LogisticRegression(C=0.1, max_iter=5000).fit((x[~tested] - mean) / spread, y[~tested])
        expected = regression.predict((x[tested] - mean) / spread)
        np.testing.assert_array_equal(data.predicted.values[0, 0, tested], expected)
        np.testing.assert_allclose(data.accuracy[0, 0, fold], np.mean(expected == y[tested]))
        most = np.bincount(y[~tested]).argmax()
        np.testing.assert_allclose(data.majority_accuracy[fold], np.mean(y[tested] == most))
    xr.testing.assert_equal(data.correct, (data.predicted == data.label).astype(np.int8))
    assert (data.chosen_C == 0.1).all()


@needs_scikit_learn
def test_the_seed_fixes_the_result_and_folds_are_shared(llama: Any) -> None:
    prompts, labels = drawn(45), [0, 1, 2] * 15
    settings: dict[str, Any] = {
        "depths": [0, 2],
        "C": (0.01, 0.1),
        "pooling": ["mean", "last"],
        "progress": False,
    }
    first = linear_probes(llama, prompts, labels, seed=3, **settings).data
    xr.testing.assert_identical(first, linear_probes(llama, prompts, labels, seed=3, **settings).data)
    quick = settings | {"depths": [0], "pooling": "mean", "C": 0.1}
    other = linear_probes(llama, prompts, labels, seed=4, **quick).data
    assert (first.fold_tested != other.fold_tested).any()
    alone = linear_probes(
        llama, prompts, labels, seed=3, **(settings | {"depths": [2], "pooling": "last"})
    ).data
    xr.testing.assert_equal(alone.correct, first.correct.sel(depth=[2], pooling=["last"]))
    for fold in range(5):
        assert np.bincount(first.label.values[first.fold_tested.values == fold]).tolist() == [3, 3, 3]


@needs_scikit_learn
def test_test_labels_and_test_states_reach_no_probe() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(1, 1, 90, 6))
    labels = (states[0, 0, :, 0] + 0.5 * rng.normal(size=90) > 0).astype(int)
    split = cross_validation(labels, np.arange(90), 3, seed=0, inner=True)
    penalties = (0.001, 0.1, 10.0)
    predicted, chosen = fit_probes(states, labels, split, penalties, progress=False)
    for number, fold in enumerate(split):
        spoilt_states, spoilt_labels = states.copy(), labels.copy()
        spoilt_states[:, :, fold.test] = 1e6 * rng.normal(size=(1, 1, len(fold.test), 6))
        spoilt_labels[fold.test] = 1 - labels[fold.test]
        again, chosen_again = fit_probes(spoilt_states, spoilt_labels, [fold], penalties, progress=False)
        assert chosen_again[0, 0, 0] == chosen[0, 0, number]
        # With the test labels alone spoilt, nothing that is said of the test prompts may change.
        again, _ = fit_probes(states, spoilt_labels, [fold], penalties, progress=False)
        np.testing.assert_array_equal(again[0, 0, fold.test], predicted[0, 0, fold.test])
        # What is said of one test prompt does not depend on the others.
        lone = Fold(fold.train, fold.test[:1], fold.inner)
        again, _ = fit_probes(states, labels, [lone], penalties, progress=False)
        assert again[0, 0, fold.test[0]] == predicted[0, 0, fold.test[0]]
        for train, validation in fold.inner:
            assert not set(fold.train[train]) & set(fold.test) and not set(train) & set(validation)
    assert 0.7 < (predicted[0, 0] == labels).mean() < 1


@needs_scikit_learn
def test_equal_texts_and_groups_are_never_on_both_sides(llama: Any) -> None:
    half, _ = planted(30)
    prompts = mcr.Prompts.from_tokens([*half.tokens, *half.tokens])
    # Labels that follow no rule: only a copy in the training set could tell them.
    labels = np.tile(np.random.default_rng(0).permutation([0, 1] * 15), 2).tolist()
    data = linear_probes(llama, prompts, labels, depths=[0], pooling="mean", C=100.0, progress=False).data
    assert data.accuracy.mean() < 0.75
    np.testing.assert_array_equal(data.fold_tested[:30], data.fold_tested[30:])
    np.testing.assert_array_equal(data.group[:30], data.group[30:])
    authors = [number % 12 for number in range(60)]
    grouped = linear_probes(
        llama, prompts, labels, groups=authors, depths=[0], pooling="mean", C=1.0, folds=3, progress=False
    ).data
    for author in range(12):
        assert len(set(grouped.fold_tested.values[author::12])) == 1


@needs_scikit_learn
def test_folds_cover_every_prompt_once_on_drawn_data() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 3, 120)
        cluster = clusters([(int(text),) for text in rng.integers(0, 90, 120)])
        split = cross_validation(labels, cluster, 4, seed, inner=True)
        assert np.sort(np.concatenate([fold.test for fold in split])).tolist() == list(range(120))
        for fold in split:
            assert not set(cluster[fold.train]) & set(cluster[fold.test])
            for train, validation in fold.inner:
                assert not set(cluster[fold.train][train]) & set(cluster[fold.train][validation])
                assert len(train) + len(validation) == len(fold.train)


@needs_scikit_learn
def test_a_fixed_split_tests_only_the_test_set_and_trains_on_none_of_it(llama: Any) -> None:
    train, train_labels = planted(60)
    test, test_labels = planted(20, seed=1)
    both = mcr.Prompts.from_tokens([*train.tokens, *test.tokens[:5]])
    labels = [*train_labels, *test_labels[:5]]
    data = linear_probes(llama, both, labels, test=(test, test_labels), depths=[0, 3], progress=False).data
    assert dict(data.sizes) | {"pooling": 3, "depth": 2, "fold": 1, "prompt": 20} == dict(data.sizes)
    assert data.attrs["left_out_of_training"] == 5
    assert data.attrs["prompts"]["digest"] == test.digest
    assert data.attrs["trained_on"]["digest"] == both.digest
    assert (data.accuracy.sel(pooling="mean", depth=0) == 1).all()
    np.testing.assert_allclose(data.accuracy[..., 0], data.correct.mean("prompt"))
    assert data.label.values.tolist() == [int(label == "good") for label in test_labels]
    without = linear_probes(
        llama, train, train_labels, test=(test, test_labels), depths=[0, 3], progress=False
    ).data
    xr.testing.assert_equal(without.correct, data.correct)


@needs_scikit_learn
def test_an_intervention_that_wipes_the_states_leaves_chance(llama: Any) -> None:
    wiped = [("blocks.1.hook_resid_pre", lambda state, hook: state * 0)]
    data = linear_probes(
        llama, *planted(40), interventions=wiped, depths=[0, 1], pooling="mean", C=1.0, progress=False
    ).data
    assert data.accuracy.sel(depth=0).mean() == 1
    assert data.accuracy.sel(depth=1).mean() == 0.5
    assert data.attrs["interventions"] == ["blocks.1.hook_resid_pre"]


@needs_scikit_learn
def test_the_summary_resamples_groups_where_there_are_some(llama: Any) -> None:
    data = linear_probes(
        llama, drawn(60), [0, 1] * 30, depths=[1], pooling="mean", C=0.1, progress=False
    ).data
    table = ProbeResult(data).summary()
    assert table.columns.tolist() == "pooling depth accuracy low high shuffled majority n".split()
    assert table.accuracy[0] == pytest.approx(float(data.correct.mean())) and table.n[0] == 60
    assert table.low[0] < table.accuracy[0] < table.high[0]
    # Groups that are right or wrong as one: as many independent things as there are groups.
    together = data.assign(correct=data.correct * 0 + np.repeat(np.arange(6) % 2, 10).astype(np.int8))
    wide = ProbeResult(together.assign_coords(group=("prompt", np.repeat(np.arange(6), 10)))).summary()
    narrow = ProbeResult(together).summary()
    assert wide.high[0] - wide.low[0] > 2 * (narrow.high[0] - narrow.low[0])
    bare = linear_probes(llama, *planted(40), control=False, depths=[0], pooling="mean", progress=False).data
    assert "shuffled" not in ProbeResult(bare).summary() and "shuffled_correct" not in bare


@needs_scikit_learn
def test_a_result_is_saved_and_loaded(llama: Any, tmp_path: Path) -> None:
    from mcr_lens.results import load_dataset, save_dataset

    data = linear_probes(llama, *planted(40), depths=[0], pooling="mean", C=1.0, progress=False).data
    xr.testing.assert_equal(load_dataset(save_dataset(data, tmp_path / "probes.nc")), data)


@needs_scikit_learn
@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 1] * 9, {}, "18 labels for 20 prompts"),
        ([1] * 20, {}, "all labels are 1"),
        ([0, None] * 10, {}, "missing"),
        ([0, float("nan")] * 10, {}, "missing"),
        ([0, 1] * 10, {"folds": 1}, "folds 1"),
        ([0, 1] * 10, {"folds": 11}, "10 different texts"),
        ([*[0] * 17, 1, 1, 1], {}, "3 different texts"),
        ([*[0] * 16, 1, 1, 1], {}, "19 labels"),
        ([0, 1] * 10, {"C": 0}, "C 0"),
        ([0, 1] * 10, {"C": []}, "above 0"),
        ([0, 1] * 10, {"C": "a"}, "C 'a': use one or more numbers"),
        ([0, 1] * 10, {"C": [0.1, None]}, "above 0"),
        ([0, 1] * 10, {"C": True}, "C True"),
        ([[0], [1]] * 10, {}, "labels: give a list, a number or a text a prompt"),
        (3, {}, "labels: give a list, a number or a text a prompt"),
        ([0, 1] * 10, {"groups": [[0]] * 20}, "groups: give a list, a number or a text"),
        ([0, 1] * 10, {"groups": [0] * 3}, "3 groups for 20 prompts"),
        ([0, 1] * 10, {"groups": [0, 0, *range(18)], "test": (drawn(4), [0, 1, 0, 1])}, "groups= is for"),
        ([0, 1] * 10, {"pooling": "max"}, "pooling 'max'"),
        ([0, 1] * 10, {"seed": -1}, "seed -1"),
        ([0, 1] * 10, {"test": (drawn(20), [0, 1] * 10)}, "0 of 20 training prompts"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    llama: Any, labels: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as told:
        linear_probes(llama, drawn(20), labels, progress=False, **options)
    assert "\n" not in str(told.value)


@needs_scikit_learn
def test_states_that_are_not_finite_are_named(llama: Any) -> None:
    broken = [("blocks.2.hook_resid_pre", lambda state, hook: state * float("inf"))]
    with pytest.raises(InputError, match=r"20 states of pooling 'mean' at depth 2 are not finite"):
        linear_probes(llama, drawn(20), [0, 1] * 10, interventions=broken, progress=False)


def test_without_scikit_learn_the_way_out_is_named(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"pip install \"mcr-lens\[tasks\]\""):
        linear_probes(llama, *planted(20), progress=False)


@needs_scikit_learn
def test_sst2_is_read_and_probed(bundled_model: Any, shared_data: Path) -> None:
    file = shared_data / "sst2" / "train.tsv"
    prompts, labels = load_labelled(file, bundled_model, text=0, label=1, n=120, seed=0)
    assert len(prompts) == len(labels) == 120 and set(labels) == {"0", "1"}
    data = linear_probes(bundled_model, prompts, labels, depths=[0, 5], C=0.01, progress=False).data
    assert data.accuracy.shape == (3, 2, 5) and data.attrs["prompts"]["source"] == str(file)


def test_clusters_join_texts_and_groups_through_others() -> None:
    tokens = [(0, 1), (0, 2), (0, 1), (0, 3), (0, 4)]
    assert clusters(tokens).tolist() == [0, 1, 0, 2, 3]
    assert clusters(tokens, ["a", "b", "b", "c", "c"]).tolist() == [0, 0, 0, 1, 1]


def test_a_fixed_split_needs_two_classes_that_are_not_tested() -> None:
    labels, cluster = np.array([0, 0, 1, 0, 1]), np.array([0, 1, 2, 3, 2])
    with pytest.raises(InputError, match="2 of 3 training prompts"):
        fixed_split(labels, cluster, 3, seed=0, inner=False)
    fold = fixed_split(labels, np.arange(5), 3, seed=0, inner=False)
    assert (fold.train.tolist(), fold.test.tolist()) == ([0, 1, 2], [3, 4])
