"""Linear probes: what can be read off the residual stream of each depth with one hyperplane."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from mcr_lens.bootstrap import bootstrap_interval
from mcr_lens.engine import measure
from mcr_lens.errors import InputError
from mcr_lens.experiments.tasks.listed import listed_depths, listed_labels
from mcr_lens.experiments.tasks.probe_fit import checked_penalties, fit_probes, need_scikit_learn
from mcr_lens.experiments.tasks.probe_folds import (
    Fold,
    check_folds,
    clusters,
    cross_validation,
    fixed_split,
    majority_correct,
    shuffled_labels,
)
from mcr_lens.hooks.intervene import described
from mcr_lens.hooks.observers.pooled_states import POOLINGS, PooledStates
from mcr_lens.models import Hook, Model
from mcr_lens.not_finite import not_finite_note
from mcr_lens.prompts import Prompts

__all__ = ["linear_probes", "probe_summary"]


def linear_probes(
    model: Model,
    prompts: Prompts,
    labels: Iterable[Hashable],
    *,
    test: tuple[Prompts, Iterable[Hashable]] | None = None,
    pooling: str | Sequence[str] = POOLINGS,
    depths: Sequence[int] | None = None,
    folds: int = 5,
    groups: Sequence[Hashable] | None = None,
    C: float | Sequence[float] = (0.001, 0.01, 0.1, 1.0),
    control: bool = True,
    seed: int = 0,
    interventions: Sequence[Hook] = (),
    sink_position: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    chunk: int | Literal["auto"] | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """How well a logistic regression tells the labels from the pooled states, at every depth.

    A probe standardises each dimension and fits an L2-penalised logistic regression (scikit-learn's, lbfgs),
    both on training prompts only. Folds are stratified by label and the same for all depths and poolings, so
    that these can be compared prompt by prompt; prompts with equal tokens or of one group are never on both
    sides. The penalty is chosen anew for every probe by 3 such folds within its training prompts.

    Args:
        prompts, labels: as from ``load_labelled``: one label a prompt, of two classes or more.
        test: prompts and labels to test on instead of folds. Training prompts whose tokens are tested
            too are left out of training.
        pooling: some of ``"mean"``, ``"last"`` and ``"mean_without_sink"``; see ``PooledStates``.
        depths: some of 0..L; all by default.
        folds: number of folds, each tested once by a probe trained on the others.
        groups: a label a prompt, such as its author (``Labelled.groups``): groups are kept together.
        C: inverse strength of the penalty; one number is taken as it is, several are tried.
        control: also probe labels that were shuffled within every fold: what the method finds where there
            is nothing to find.
        seed: of the folds and of the shuffling.
        interventions: hooks that edit; they run before the states are read.
        sink_position: the token that ``"mean_without_sink"`` leaves out.
        batch_size, chunk, progress: as in ``measure``.

    Returns:
        ``accuracy`` (pooling, depth, fold); ``correct`` (pooling, depth, prompt), 1 or 0, of the prompts
        that were tested; ``predicted`` likewise, as a place in ``attrs["classes"]``, and ``chosen_C``
        (pooling, depth, fold). With the control ``shuffled_accuracy`` and ``shuffled_correct``.
        ``majority_accuracy`` (fold) and ``majority_correct`` (prompt): the training prompts' most frequent
        label. Coordinates of ``prompt``: ``label``, ``fold_tested``, ``group`` and ``n_tokens``.

    Raises:
        InputError: without scikit-learn; for labels that do not fit the prompts, too few of a class, states
            that are not finite; as ``measure``.

    Sources: Alain and Bengio 2016 (arXiv 1610.01644); Hewitt and Liang 2019 (arXiv 1909.03368) on controls.

    Example:
        >>> import mcr_lens as mcr
        >>> from mcr_lens.prompts.labelled import load_labelled
        >>> model = mcr.load_model("gpt2")                                            # doctest: +SKIP
        >>> prompts, labels = load_labelled("hf:stanfordnlp/sst2", model,
        ...     text="sentence", split="train", n=1000, seed=0)                       # doctest: +SKIP
        >>> data = linear_probes(model, prompts, labels)                              # doctest: +SKIP
        >>> data.accuracy.mean("fold").to_pandas()                                    # doctest: +SKIP
    """
    need_scikit_learn()
    check_folds(folds, seed)
    penalties = checked_penalties(C)
    depths = listed_depths(depths)
    groups = None if groups is None else listed_labels(groups, "group")
    sets = [(part, listed_labels(its)) for part, its in [(prompts, labels), *([test] if test else [])]]
    codes, classes = _codes(sets)
    split, cluster = _split(sets, codes, groups, folds, seed, inner=len(penalties) > 1)
    measured = []
    for part, _ in sets:
        observer = PooledStates(model, pooling, depths=depths, sink_position=sink_position)
        settings = {"batch_size": batch_size, "chunk": chunk, "progress": progress}
        measured.append(measure(model, part, [observer], list(interventions), **settings))
    states = _joined(measured)

    data = _results(states, codes, split, penalties, progress)
    majority = majority_correct(codes, split)
    data = data.assign(
        majority_accuracy=("fold", [majority[fold.test].mean() for fold in split]),
        majority_correct=("prompt", majority),
    )
    if control:
        shuffled = _results(states, shuffled_labels(codes, split, seed), split, penalties, progress)
        kept = {name: f"shuffled_{name}" for name in ("accuracy", "correct")}
        data = data.assign(shuffled[list(kept)].rename(kept))
    data = data.assign_coords(label=("prompt", codes), group=("prompt", cluster))
    tested = np.sort(np.concatenate([fold.test for fold in split]))
    data = data.isel(prompt=tested).assign_coords(prompt=range(len(tested)))
    data.attrs = measured[-1].attrs | {
        "result": "linear probes",
        "classes": classes,
        "C": list(penalties),
        "folds": folds if test is None else None,
        "trained_on": None if test is None else prompts.attributes(),
        "left_out_of_training": 0 if test is None else len(prompts) - len(split[0].train),
        "seed": seed,
        "sink_position": sink_position,
        "interventions": described(list(interventions)),
    }
    return data


def probe_summary(
    data: xr.Dataset, *, confidence: float = 0.95, n_resamples: int = 9999, seed: int = 0
) -> pd.DataFrame:
    """A row a pooling and depth: accuracy over the tested prompts, its interval, and what to hold it against.

    The interval is over prompts, drawn anew a group at a time (``bootstrap_interval``): it takes the probes
    as they were trained, and says how far the accuracy would move with other test prompts.

    Returns:
        Columns ``pooling``, ``depth``, ``accuracy``, ``low``, ``high``, ``shuffled`` (where the control was
        run), ``majority`` and ``n`` (prompts).
    """
    correct = data["correct"].transpose("prompt", "pooling", "depth")
    values = correct.values.reshape(correct.sizes["prompt"], -1).astype(np.float64)
    _, group = np.unique(data["group"].values, return_inverse=True)
    options = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    if group.max() + 1 == len(group):
        low, high = bootstrap_interval(values, **options)
    else:
        sums = np.zeros((group.max() + 1, values.shape[1] + 1))
        np.add.at(sums, group, np.concatenate([values, np.ones((len(values), 1))], 1))
        low, high = bootstrap_interval(sums, _share, **options)
    index = pd.MultiIndex.from_product([data[name].values for name in ("pooling", "depth")])
    table = index.to_frame(index=False, name=["pooling", "depth"])
    table = table.assign(accuracy=values.mean(0), low=low, high=high)
    if "shuffled_correct" in data:
        shuffled = data["shuffled_correct"].transpose("prompt", "pooling", "depth")
        table["shuffled"] = shuffled.values.mean(0).ravel()
    return table.assign(majority=float(data["majority_correct"].mean()), n=len(values))


def _share(sums: Float[np.ndarray, "... group column"], axis: int) -> Float[np.ndarray, "..."]:
    """Correct prompts over prompts, of groups of different size."""
    totals = sums.sum(axis)
    return totals[..., :-1] / totals[..., -1:]


def _codes(sets: Sequence[tuple[Prompts, list[Hashable]]]) -> tuple[Int[np.ndarray, "prompt"], list[Any]]:
    """Labels as places in the sorted list of classes, of all sets together."""
    labels: list[Any] = []
    for part, given in sets:
        if len(given) != len(part):
            raise InputError(
                f"{len(given)} labels for {len(part)} prompts ({part.dropped} texts were too short): "
                "give one label a prompt, as load_labelled does"
            )
        labels += given
    if any(label is None or label != label for label in labels):
        raise InputError("a label is missing (None or NaN): leave the prompt out")
    classes = sorted(set(labels), key=lambda label: (type(label).__name__, label))
    if len(classes) < 2:
        raise InputError(f"all labels are {classes[0]!r}: a probe needs two classes or more")
    place = {label: code for code, label in enumerate(classes)}
    return np.array([place[label] for label in labels]), classes


def _split(
    sets: Sequence[tuple[Prompts, list[Hashable]]],
    codes: Int[np.ndarray, "prompt"],
    groups: Sequence[Hashable] | None,
    folds: int,
    seed: int,
    inner: bool,
) -> tuple[list[Fold], Int[np.ndarray, "prompt"]]:
    """The folds, and the group of every prompt of all sets."""
    tokens = [ids for part, _ in sets for ids in part.tokens]
    if len(sets) == 1:
        cluster = clusters(tokens, groups)
        return cross_validation(codes, cluster, folds, seed, inner), cluster
    if groups is not None:
        raise InputError(
            "groups= is for folds; with test= what is trained on is yours to choose: leave it out"
        )
    cluster = clusters(tokens)
    return [fixed_split(codes, cluster, len(sets[0][0]), seed, inner)], cluster


def _joined(measured: Sequence[xr.Dataset]) -> xr.DataArray:
    """The states of all sets, (pooling, depth, prompt, dimension)."""
    parts = [data["pooled_state"].drop_vars("prompt") for data in measured]
    states = xr.concat(parts, "prompt").transpose("pooling", "depth", "prompt", "dimension")
    broken = (~np.isfinite(states.values)).any(-1).sum(-1)
    for pooling, depth in np.argwhere(broken).tolist():
        notes = [note for data in measured if (note := not_finite_note(data))]
        raise InputError(
            f"{broken[pooling, depth]} states of pooling '{states.pooling.values[pooling]}' at depth "
            f"{states.depth.values[depth]} are not finite: load the model with dtype float32 or bfloat16, or "
            f"leave these prompts out ({'; '.join(notes) or 'their pooled states overflow'})"
        )
    return states


def _results(
    states: xr.DataArray,
    labels: np.ndarray,
    split: Sequence[Fold],
    penalties: Sequence[float],
    progress: bool,
) -> xr.Dataset:
    """What the probes of all poolings and depths said, and how often they were right."""
    at_each = ("pooling", "depth")
    predicted, chosen = fit_probes(states.values, labels, split, penalties, progress)
    fold_tested = np.full(len(labels), -1)
    for number, fold in enumerate(split):
        fold_tested[fold.test] = number
    correct = (predicted == labels).astype(np.int8)
    by_fold = np.stack([correct[..., fold.test].mean(-1) for fold in split], -1)
    variables = {
        "accuracy": ((*at_each, "fold"), by_fold),
        "correct": ((*at_each, "prompt"), correct),
        "predicted": ((*at_each, "prompt"), predicted),
        "chosen_C": ((*at_each, "fold"), chosen),
    }
    coords = {name: states[name].values for name in at_each}
    coords |= {name: ("prompt", states[name].values) for name in ("n_tokens", "first_token")}
    coords |= {"fold": range(len(split)), "fold_tested": ("prompt", fold_tested)}
    return xr.Dataset(variables, coords)
