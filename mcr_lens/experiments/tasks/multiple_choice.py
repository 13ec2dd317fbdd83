"""Multiple-choice tasks of the lm-evaluation-harness, answered from every depth in one pass."""

from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mcr_lens.errors import InputError, require_extra
from mcr_lens.experiments.lenses import lens_record
from mcr_lens.experiments.tasks.harness import evaluate_tasks, load_tasks
from mcr_lens.experiments.tasks.results import ChoiceResult
from mcr_lens.hooks.interventions import described
from mcr_lens.models import Model, model_facts
from mcr_lens.validate import is_number, is_whole

__all__ = ["multiple_choice"]


def multiple_choice(
    model: Model,
    tasks: str | Path | Mapping[str, Any] | Sequence[str | Path | Mapping[str, Any]],
    *,
    num_fewshot: int | None = None,
    limit: int | float | None = None,
    include_path: str | Path | None = None,
    seed: int | None = None,
    progress: bool = True,
    **options: Any,
) -> ChoiceResult:
    """How well every depth answers multiple-choice questions, read out through a lens.

    ``lm_eval`` makes the prompts, draws the few-shot examples and scores the answers, once a depth; the model
    runs once, for all depths (``LensLanguageModel``, which says how requests are tokenised and where a BOS
    stands). At the last depth the results are those of ``lm_eval``'s own ``HFLM`` in float32.

    Args:
        tasks: names such as ``"arc_easy"``, ``"hellaswag"``, ``"winogrande"``, groups, YAML files, or
            configurations as dictionaries. Those that ask for log-likelihoods; not for generated text.
        num_fewshot: examples before each question; ``None``: as the task says. A task that says 0 keeps 0.
        limit: only the first documents of each task, a number or a fraction below 1.
        include_path: a folder of task files of your own.
        seed: of few-shot examples and shuffled choices; ``None``: those of ``lm_eval``'s own command.
        options: those of ``LensLanguageModel``: ``interventions``, ``translators``, ``depths``,
            ``tokenizer``, ``add_bos_token``, ``batch_size``.

    Returns:
        ``.data`` with dimensions ``document`` (coordinates ``task``, ``doc_id`` and ``n_choices``, 0 for a
        task without choices) and ``depth``: every metric of the tasks that is one number a document, such as
        ``acc`` and ``acc_norm`` (NaN where a task lacks it), and ``log_likelihood`` (document, depth,
        choice) in nats, of each request of a document in ``lm_eval``'s order: with ``acc_mutual_info``
        the choices after the question, then each by itself. In ``attrs``: model, lens, interventions; under
        ``"tasks"`` each task's version, few-shot examples, number of documents, which metrics are better
        when higher and whether ``several_right`` answers may stand among the choices; under ``"results"``
        what ``lm_eval`` makes of a task, metric by metric: a value a depth, NaN where a document is NaN.
        A document is NaN where the model is not finite for one of its requests; ``not_finite_depth``
        (document) is the first such depth, -1 for none. ``"requests"`` says how many sequences began with the
        BOS and how many were cut from the left.

    Raises:
        InputError: where lm-eval is missing, for tasks that are unknown, cannot be loaded or ask for
            generated text, and for what ``LensLanguageModel`` refuses.

    Example:
        >>> multiple_choice(model, "arc_easy", limit=200).summary("acc_norm")          # doctest: +SKIP
    """
    require_extra("lm_eval", "multiple-choice tasks", "tasks")
    from mcr_lens.experiments.tasks.lens_language_model import LensLanguageModel

    if limit is not None and not (is_number(limit) and limit > 0):
        raise InputError(f"limit {limit!r}: use a number of documents from 1, a fraction below 1, or None")
    if num_fewshot is not None and not is_whole(num_fewshot, 0):
        raise InputError(f"num_fewshot {num_fewshot!r}: use a number of examples from 0, or None")
    lm = LensLanguageModel(model, progress=progress, **options)
    loaded = load_tasks(tasks, include_path, num_fewshot, seed)
    evaluations = []
    for depth in lm.depths:
        lm.depth = depth
        # The first evaluation measures; to the others the answers are known.
        silent = not progress or depth != lm.depths[0]
        evaluations.append(evaluate_tasks(lm, loaded, limit, seed, silent=silent))
    data = _dataset(lm.depths, evaluations, loaded["tasks"])
    data.attrs = model_facts(model).attributes() | {
        "lens": lens_record(lm.translators),
        "interventions": described(lm.interventions),
        "tasks": {name: _described(name, task, evaluations[0]) for name, task in loaded["tasks"].items()},
        "results": {name: _aggregates(name, evaluations, data) for name in loaded["tasks"]},
        "requests": {
            "add_bos_token": lm.add_bos_token,
            "share_with_bos": lm.share_with_bos,
            "truncated": lm.truncated,
        },
        "limit": limit,
        "seed": seed,
    }
    return ChoiceResult(data)


def _dataset(depths: Sequence[int], evaluations: Sequence[Any], tasks: Mapping[str, Any]) -> xr.Dataset:
    """Documents of all tasks in one dimension, each as logged under its task's first filter."""
    by_depth = [
        [
            (task, sample)
            for task, samples in evaluation["samples"].items()
            for sample in samples
            if sample["filter"] == samples[0]["filter"]
        ]
        for evaluation in evaluations
    ]
    first = by_depth[0]
    shape = (len(first), len(by_depth))
    n_requests = np.array([len(sample["resps"]) for _, sample in first])
    metrics = dict.fromkeys(name for _, sample in first for name in sample["metrics"])
    values = {name: np.full(shape, np.nan) for name in metrics}
    likelihood = np.full((*shape, n_requests.max()), np.nan)
    for place, samples in enumerate(by_depth):
        for document, (_, sample) in enumerate(samples):
            answers = [responses[0][0] for responses in sample["resps"]]
            likelihood[document, place, : len(answers)] = answers
            for name in sample["metrics"]:
                if isinstance(sample[name], Real):
                    values[name][document, place] = sample[name]
    # The harness takes the likeliest of answers without a likelihood: it is right or wrong by chance.
    lost = (~np.isnan(likelihood)).sum(-1) < n_requests[:, None]
    broken = np.maximum.accumulate(lost, axis=1)
    for array in (likelihood, *values.values()):
        array[broken] = np.nan
    # Of one question, whatever is asked besides; 0 where a single answer is asked for.
    n_choices = [
        len(tasks[task].doc_to_choice(sample["doc"])) if tasks[task].OUTPUT_TYPE == "multiple_choice" else 0
        for task, sample in first
    ]
    return xr.Dataset(
        {name: (("document", "depth"), array) for name, array in values.items() if not np.isnan(array).all()}
        | {"log_likelihood": (("document", "depth", "choice"), likelihood)},
        coords={
            "task": ("document", np.array([task for task, _ in first])),
            "doc_id": ("document", [sample["doc_id"] for _, sample in first]),
            "n_choices": ("document", n_choices),
            "depth": list(depths),
            "not_finite_depth": (
                "document",
                np.where(broken.any(1), np.array(depths)[broken.argmax(1)], -1),
            ),
        },
    )


def _described(name: str, task: Any, evaluation: Any) -> dict[str, Any]:
    return {
        "version": evaluation["versions"].get(name),
        "num_fewshot": evaluation["n-shot"].get(name),
        "n": evaluation["n-samples"][name]["effective"],
        "higher_is_better": dict(task.higher_is_better()),
        "several_right": bool(getattr(task, "multiple_target", 0)),
    }


def _aggregates(name: str, evaluations: Sequence[Any], data: xr.Dataset) -> dict[str, list[float]]:
    """``lm_eval``'s own figures of a task, such as ``"acc,none"``: a value a depth, NaN if one is broken."""
    rows = [evaluation["results"][name] for evaluation in evaluations]
    begins = data.not_finite_depth.values[data.task.values == name]
    whole = [not ((begins >= 0) & (begins <= depth)).any() for depth in data.depth.values]
    return {
        key: [float(row[key]) if ok else float("nan") for row, ok in zip(rows, whole, strict=True)]
        for key, value in rows[0].items()
        if "," in key and "_stderr" not in key and isinstance(value, Real)
    }
