"""Linear probes: what can be read off the residual stream of each depth with one hyperplane."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Int

from mcr_lens.engine import measure
from mcr_lens.errors import InputError, require_extra
from mcr_lens.experiments.tasks.probe_folds import (
    Fold,
    clusters,
    cross_validation,
    fit_probes,
    fixed_split,
    majority_correct,
    shuffled_labels,
)
from mcr_lens.experiments.tasks.results import ProbeResult
from mcr_lens.hooks.interventions import described
from mcr_lens.hooks.observers.pooled_states import POOLINGS, PooledStates
from mcr_lens.models import Hook, Model
from mcr_lens.prompts import Prompts, PromptsLike, as_prompts
from mcr_lens.validate import is_number, is_whole

__all__ = ["linear_probes"]


def linear_probes(
    model: Model,
    prompts: PromptsLike,
    labels: Iterable[Hashable],
    *,
    test: tuple[PromptsLike, Iterable[Hashable]] | None = None,
    pooling: str | Sequence[str] = POOLINGS,
    depths: Sequence[int] | None = None,
    folds: int = 5,
    groups: Sequence[Hashable] | None = None,
    C: float | Sequence[float] = (0.001, 0.01, 0.1, 1.0),
    control: bool = True,
    seed: int = 0,
    sink_position: int = 0,
    interventions: Sequence[Hook] = (),
    progress: bool = True,
    **options: Any,
) -> ProbeResult:
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
        sink_position: the token that ``"mean_without_sink"`` leaves out.
        interventions: hooks that edit; they run before the states are read.
        progress, options: as in ``measure``: ``batch_size``, ``chunk``.

    Returns:
        ``.data``: ``accuracy`` (pooling, depth, fold); ``correct`` (pooling, depth, prompt), 1 or 0, of the
        prompts that were tested; ``predicted`` likewise, as a place in ``attrs["classes"]``, and ``chosen_C``
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
        >>> linear_probes(model, prompts, labels).summary()                           # doctest: +SKIP
    """
    require_extra("sklearn", "linear probes", "tasks")
    strengths: list[Any] = list(C) if isinstance(C, Sequence) else [C]
    if not strengths or not all(is_number(c) and 0 < float(c) < np.inf for c in strengths):
        raise InputError(f"C {C!r}: use one or more numbers above 0, such as (0.001, 0.01, 0.1, 1.0)")
    penalties = sorted({float(c) for c in strengths})  # the strongest penalty first
    if not is_whole(folds, 2):
        raise InputError(f"folds {folds!r}: use a whole number from 2, or give test=(prompts, labels)")
    if not is_whole(seed, 0, 2**32):
        raise InputError(f"seed {seed!r} must be a whole number from 0 to 2**32 - 1")
    prompts = as_prompts(prompts, model)
    sets = [prompts] if test is None else [prompts, as_prompts(test[0], model)]
    codes, classes = _codes(sets, [labels] if test is None else [labels, test[1]])
    split, cluster = _split(sets, codes, groups, folds, seed, inner=len(penalties) > 1)
    options |= {"interventions": list(interventions), "progress": progress}
    observer = PooledStates(model, pooling, depths=depths, sink_position=sink_position)
    measured = [measure(model, part, [observer], **options) for part in sets]
    states = _joined(measured)
    data = _results(states, codes, split, penalties, progress)
    majority = majority_correct(codes, split)
    data = data.assign(
        majority_accuracy=("fold", [majority[fold.test].mean() for fold in split]),
        majority_correct=("prompt", majority),
    )
    if control:
        shuffled = _results(states, shuffled_labels(codes, split, seed), split, penalties, progress)
        data = data.assign({f"shuffled_{name}": shuffled[name] for name in ("accuracy", "correct")})
    data = data.assign_coords(label=("prompt", codes), group=("prompt", cluster))
    in_test = np.sort(np.concatenate([fold.test for fold in split]))
    data = data.isel(prompt=in_test).assign_coords(prompt=range(len(in_test)))
    data.attrs = measured[-1].attrs | {
        "classes": classes,
        "C": penalties,
        "folds": folds if test is None else None,
        "trained_on": None if test is None else prompts.attributes(),
        "left_out_of_training": 0 if test is None else len(prompts) - len(split[0].train),
        "seed": seed,
        "sink_position": sink_position,
        "interventions": described(options["interventions"]),
    }
    return ProbeResult(data)


def _codes(
    sets: Sequence[Prompts], labels: Sequence[Iterable[Hashable]]
) -> tuple[Int[np.ndarray, "prompt"], list[Any]]:
    """Labels as places in the sorted list of classes, of all sets together."""
    names: list[Any] = []
    for prompts, labels_of_set in zip(sets, labels, strict=True):
        values = _values(labels_of_set, "label")
        if len(values) != len(prompts):
            raise InputError(
                f"{len(values)} labels for {len(prompts)} prompts ({prompts.dropped} texts were too short): "
                "give one label a prompt, as load_labelled does"
            )
        names += values
    if any(name is None or name != name for name in names):
        raise InputError("a label is missing (None or NaN): leave the prompt out")
    classes = sorted(set(names), key=lambda name: (type(name).__name__, name))
    if len(classes) < 2:
        raise InputError(f"all labels are {classes[0]!r}: a probe needs two classes or more")
    return np.array([classes.index(name) for name in names]), classes


def _values(values: Iterable[Hashable], what: str) -> list[Any]:
    """Labels or groups as Python's own values."""
    try:
        listed = [value.item() if isinstance(value, np.generic) else value for value in values]
        set(listed)
    except TypeError as error:
        raise InputError(f"{what}s: give a list, a number or a text a prompt ({error})") from error
    return listed


def _split(
    sets: Sequence[Prompts],
    codes: Int[np.ndarray, "prompt"],
    groups: Sequence[Hashable] | None,
    folds: int,
    seed: int,
    inner: bool,
) -> tuple[list[Fold], Int[np.ndarray, "prompt"]]:
    """The folds, and the group of every prompt of all sets."""
    tokens = [ids for part in sets for ids in part.tokens]
    names = None if groups is None else _values(groups, "group")
    if names is not None and len(sets) == 2:
        raise InputError("groups= is for folds: with test= leave it out and choose what is trained on")
    if names is not None and len(names) != len(tokens):
        raise InputError(f"{len(names)} groups for {len(tokens)} prompts: give one group a prompt")
    cluster = clusters(tokens, names)
    if len(sets) == 2:
        return [fixed_split(codes, cluster, len(sets[0]), seed, inner)], cluster
    return cross_validation(codes, cluster, folds, seed, inner), cluster


def _joined(measured: Sequence[xr.Dataset]) -> xr.DataArray:
    """The states of all sets, (pooling, depth, prompt, dimension)."""
    parts = [data["pooled_state"].drop_vars("prompt") for data in measured]
    states = xr.concat(parts, "prompt").transpose("pooling", "depth", "prompt", "dimension")
    broken = (~np.isfinite(states.values)).any(-1).sum(-1)
    for pooling, depth in np.argwhere(broken).tolist():
        raise InputError(
            f"{broken[pooling, depth]} states of pooling '{states.pooling.values[pooling]}' at depth "
            f"{states.depth.values[depth]} are not finite: load the model with dtype float32 or bfloat16, or "
            "leave these prompts out"
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
    predicted, best_C = fit_probes(states.values, labels, split, penalties, progress)
    fold_tested = np.full(len(labels), -1)
    for number, fold in enumerate(split):
        fold_tested[fold.test] = number
    correct = (predicted == labels).astype(np.int8)
    by_fold = np.stack([correct[..., fold.test].mean(-1) for fold in split], -1)
    variables = {
        "accuracy": ((*at_each, "fold"), by_fold),
        "correct": ((*at_each, "prompt"), correct),
        "predicted": ((*at_each, "prompt"), predicted),
        "chosen_C": ((*at_each, "fold"), best_C),
    }
    coords = {name: states[name].values for name in at_each}
    coords |= {name: ("prompt", states[name].values) for name in ("n_tokens", "first_token")}
    coords |= {"fold": range(len(split)), "fold_tested": ("prompt", fold_tested)}
    return xr.Dataset(variables, coords)
