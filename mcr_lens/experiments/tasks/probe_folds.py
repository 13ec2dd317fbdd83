"""Probes on given states: which prompts each is trained and tested on, and the regressions themselves."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from mcr_lens.errors import InputError

__all__ = [
    "Fold",
    "clusters",
    "cross_validation",
    "fit_probes",
    "fixed_split",
    "majority_correct",
    "shuffled_labels",
]

_INNER_FOLDS = 3
_MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class Fold:
    """One training and one test set.

    Attributes:
        train, test: prompts of each; no text and no group stands in both.
        inner: training and validation sets within ``train``, as places in it, to choose a setting by.
    """

    train: Int[np.ndarray, "train"]
    test: Int[np.ndarray, "test"]
    inner: list[tuple[Int[np.ndarray, "inner"], Int[np.ndarray, "validation"]]]


def clusters(
    tokens: Sequence[Hashable], groups: Sequence[Hashable] | None = None
) -> Int[np.ndarray, "prompt"]:
    """A number a prompt: the same for prompts that share their text or group, be it through others.

    Example:
        >>> clusters([(0, 5), (0, 6), (0, 5), (0, 7)], ["a", "b", "b", "c"]).tolist()
        [0, 0, 0, 1]
    """
    n = len(tokens)
    keys = [*(("text", text) for text in tokens), *(("group", group) for group in groups or ())]
    numbers = {key: n + number for number, key in enumerate(dict.fromkeys(keys))}
    prompts = np.arange(len(keys)) % n
    links = (np.ones(len(keys)), (prompts, [numbers[key] for key in keys]))
    _, component = connected_components(coo_matrix(links, shape=(n + len(numbers),) * 2), directed=False)
    return np.unique(component[:n], return_inverse=True)[1]


def cross_validation(
    labels: Int[np.ndarray, "prompt"], cluster: Int[np.ndarray, "prompt"], folds: int, seed: int, inner: bool
) -> list[Fold]:
    """Stratified folds over all prompts; each prompt is tested once.

    Raises:
        InputError: where a class has too few prompts that are not of one group.
    """
    splits = _stratified(labels, cluster, folds, seed)
    return [_fold(train, test, labels, cluster, seed, inner) for train, test in splits]


def fixed_split(
    labels: Int[np.ndarray, "prompt"],
    cluster: Int[np.ndarray, "prompt"],
    n_train: int,
    seed: int,
    inner: bool,
) -> Fold:
    """The first ``n_train`` prompts for training, less what is tested too; the rest to test."""
    test = np.arange(n_train, len(labels))
    train = np.flatnonzero(~np.isin(cluster[:n_train], cluster[test]))
    if len(np.unique(labels[train])) < 2:
        raise InputError(f"{len(train)} of {n_train} training prompts are not in the test set too: too few")
    return _fold(train, test, labels, cluster, seed, inner)


def shuffled_labels(
    labels: Int[np.ndarray, "prompt"], split: Sequence[Fold], seed: int
) -> Int[np.ndarray, "prompt"]:
    """Labels shuffled within every test set, and within what is never tested: each keeps its class counts."""
    rng = np.random.default_rng(seed)
    tests = [fold.test for fold in split]
    rest = np.setdiff1d(np.arange(len(labels)), np.concatenate(tests))
    shuffled = labels.copy()
    for part in (*tests, rest):
        shuffled[part] = rng.permutation(labels[part])
    return shuffled


def majority_correct(labels: Int[np.ndarray, "prompt"], split: Sequence[Fold]) -> Int[np.ndarray, "prompt"]:
    """1 where always saying the training prompts' most frequent label is right, else 0."""
    correct = np.zeros(len(labels), np.int8)
    for fold in split:
        correct[fold.test] = labels[fold.test] == np.bincount(labels[fold.train]).argmax()
    return correct


def fit_probes(
    states: Float[np.ndarray, "pooling depth prompt dimension"],
    labels: Int[np.ndarray, "prompt"],
    split: Sequence[Fold],
    penalties: Sequence[float],
    progress: bool,
) -> tuple[Int[np.ndarray, "pooling depth prompt"], Float[np.ndarray, "pooling depth fold"]]:
    """What each probe says of the prompts it was not trained on, and its C.

    Prompts that no fold tests are -1. Where several C are equally good, the strongest penalty is taken.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted = np.full(states.shape[:3], -1, dtype=np.int32)
    best_C = np.full((*states.shape[:2], len(split)), penalties[0])
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=penalties[0], max_iter=_MAX_ITERATIONS))
    grid = {"logisticregression__C": list(penalties)}
    places = list(np.ndindex(states.shape[:2]))
    for place in tqdm(places, unit="probe", desc="probes", disable=None if progress else True):
        features = states[place].astype(np.float64)
        for number, fold in enumerate(split):
            several = len(penalties) > 1
            probe: Any = GridSearchCV(pipeline, grid, cv=fold.inner) if several else pipeline
            probe.fit(features[fold.train], labels[fold.train])
            predicted[(*place, fold.test)] = probe.predict(features[fold.test])
            if several:
                best_C[(*place, number)] = probe.best_params_["logisticregression__C"]
    return predicted, best_C


def _fold(
    train: np.ndarray, test: np.ndarray, labels: np.ndarray, cluster: np.ndarray, seed: int, inner: bool
) -> Fold:
    return Fold(train, test, _stratified(labels[train], cluster[train], _INNER_FOLDS, seed) if inner else [])


def _stratified(labels: np.ndarray, cluster: np.ndarray, folds: int, seed: int) -> list[tuple[Any, Any]]:
    from sklearn.model_selection import StratifiedGroupKFold

    n_clusters = min(len(np.unique(cluster[labels == code])) for code in np.unique(labels))
    if n_clusters < folds:
        raise InputError(
            f"a class has {n_clusters} different texts or groups to train on, {folds} folds need {folds}: "
            "give more prompts, fewer folds or one C"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Fewer prompts than folds in a class was just refused; what is left concerns no result.
        warnings.simplefilter("ignore", UserWarning)
        splits = list(splitter.split(np.zeros(len(labels)), labels, cluster))
    if any(len(test) == 0 or len(np.unique(labels[train])) < 2 for train, test in splits):
        raise InputError(f"groups too large for {folds} folds: give fewer folds or smaller groups")
    return splits
