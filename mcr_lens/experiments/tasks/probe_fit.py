"""Logistic regressions on given features and folds, with scikit-learn."""

import importlib.util
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from mcr_lens.errors import InputError
from mcr_lens.experiments.tasks.probe_folds import Fold

__all__ = ["checked_penalties", "fit_probes", "need_scikit_learn"]

_MAX_ITERATIONS = 2000


def need_scikit_learn() -> None:
    """Raise ``InputError`` where scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise InputError('linear probes need scikit-learn: pip install "mcr-lens[tasks]"')


def checked_penalties(C: float | Sequence[float]) -> tuple[float, ...]:
    """Inverse strengths of the penalty in rising order, the strongest penalty first.

    Raises:
        InputError: unless all are finite and above 0.
    """
    given = list(C) if isinstance(C, Iterable) else [C]
    are_numbers = all(isinstance(c, Real) and not isinstance(c, bool | np.bool_) for c in given)
    if not given or not are_numbers or not all(0 < float(c) < np.inf for c in given):
        raise InputError(f"C {C!r}: use one or more numbers above 0, such as (0.001, 0.01, 0.1, 1.0)")
    return tuple(sorted({float(c) for c in given}))


def fit_probes(
    states: Float[np.ndarray, "pooling depth prompt dimension"],
    labels: Int[np.ndarray, "prompt"],
    split: Sequence[Fold],
    penalties: Sequence[float],
    progress: bool,
) -> tuple[Int[np.ndarray, "pooling depth prompt"], Float[np.ndarray, "pooling depth fold"]]:
    """What each probe says of the prompts it was not trained on, and the C it was given or chose.

    Prompts that no fold tests are -1. Where several C are equally good, the strongest penalty is taken.
    """
    poolings, depths, prompts, _ = states.shape
    predicted = np.full((poolings, depths, prompts), -1, dtype=np.int32)
    chosen = np.zeros((poolings, depths, len(split)))
    bar = tqdm(total=poolings * depths, unit="probe", desc="probes", disable=None if progress else True)
    with bar:
        for place in np.ndindex(poolings, depths):
            features = states[place].astype(np.float64)
            for number, fold in enumerate(split):
                probe = _probe(penalties, fold).fit(features[fold.train], labels[fold.train])
                predicted[(*place, fold.test)] = probe.predict(features[fold.test])
                best = getattr(probe, "best_params_", None)
                chosen[(*place, number)] = penalties[0] if best is None else best["logisticregression__C"]
            bar.update()
    return predicted, chosen


def _probe(penalties: Sequence[float], fold: Fold) -> Any:
    """An unfitted probe; with several C one that chooses by the fold's inner splits."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=penalties[0], max_iter=_MAX_ITERATIONS)
    probe = make_pipeline(StandardScaler(), regression)
    if len(penalties) == 1:
        return probe
    return GridSearchCV(probe, {"logisticregression__C": list(penalties)}, cv=fold.inner, scoring="accuracy")
