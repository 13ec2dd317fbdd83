"""Embedding benchmarks of mteb, at every depth of a model."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from mcr_lens.errors import InputError, one_line, require_extra
from mcr_lens.experiments.tasks.encoder import DepthEncoder, TextStates
from mcr_lens.experiments.tasks.results import EmbeddingResult
from mcr_lens.models import Model, model_facts

__all__ = ["embedding_tasks"]


def embedding_tasks(
    model: Model,
    tasks: Any,
    *,
    depths: Sequence[int] | None = None,
    pooling: str | Sequence[str] = "mean",
    progress: bool = True,
    **options: Any,
) -> EmbeddingResult:
    """Main scores of mteb tasks at every depth; the model runs over each text of a task once.

    The states of a task's texts are held at all depths until the task is done: (texts x depths x poolings
    x d_model) numbers in float32. What a score is made of (the classifier, what it is trained on, the
    folds and the seed) is the task's; it is the same at every depth. Nothing is read from or written to
    mteb's own cache of results.

    Args:
        tasks: one or several tasks of mteb, or their names.
        depths: some of 0..L; all by default.
        pooling: one or several; see ``PooledStates``.
        options: those of ``TextStates``: ``interventions``, ``max_tokens``, ``prepend_bos``, ``batch_size``
            and so on.

    Returns:
        ``.data``: ``main_score`` (task, depth, pooling), the mean over the task's splits and subsets; which
        score that is stands in ``metric`` (task), such as ``"accuracy"`` or ``"cosine_spearman"``.

    Raises:
        InputError: without mteb or any task; for a task that is unknown or has no data here; for texts
            of fewer than 2 tokens; as ``measure``.
    """
    require_extra("mteb", "embedding tasks", "tasks")
    import mteb

    several = isinstance(tasks, Iterable) and not isinstance(tasks, str | mteb.AbsTask)
    task_list = [_task(task) for task in (tasks if several else [tasks])]
    if not task_list:
        raise InputError("no tasks: give at least one, such as mteb.get_task('Banking77Classification')")
    states = TextStates(model, depths, pooling, **options)
    scores = np.full((len(task_list), len(states.depths), len(states.poolings)), np.nan)
    bar = tqdm(total=scores.size, unit="score", desc="tasks", disable=None if progress else True)
    with bar:
        for number, task in enumerate(task_list):
            bar.set_postfix_str(task.metadata.name)
            with _loaded(task):
                for depth, pooled in product(states.depths, states.poolings):
                    encoder: Any = DepthEncoder(model, depth, pooled, states=states)
                    settings = {"cache": None, "co2_tracker": False, "show_progress_bar": False}
                    result = mteb.evaluate(encoder, task, **settings).task_results[0]
                    scores[(number, *states.place(depth, pooled))] = result.get_score()
                    bar.update()
            states.forget()
    coords = {
        "task": [task.metadata.name for task in task_list],
        "depth": list(states.depths),
        "pooling": list(states.poolings),
        "metric": ("task", [task.metadata.main_score for task in task_list]),
    }
    data = xr.Dataset({"main_score": (("task", "depth", "pooling"), scores)}, coords)
    data.attrs = model_facts(model).attributes() | states.record()
    data.attrs["versions"] = data.attrs["versions"] | {"mteb": mteb.__version__}
    return EmbeddingResult(data)


def _task(task: Any) -> Any:
    import mteb

    if isinstance(task, mteb.AbsTask):
        return task
    try:
        return mteb.get_task(task)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"mteb has no task {task!r:.80}: mteb.get_tasks() lists them") from error


@contextlib.contextmanager
def _loaded(task: Any) -> Iterator[None]:
    """The task's data, unloaded again unless they were there before."""
    if task.data_loaded:
        yield
        return
    try:
        task.load_data()
    except Exception as error:  # of data sets, the hub and the task's own code
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise InputError(f"{task.metadata.name}: its data cannot be loaded ({reason})") from error
    try:
        yield
    finally:
        task.unload_data()
