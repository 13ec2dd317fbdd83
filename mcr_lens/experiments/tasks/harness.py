"""Tasks of the lm-evaluation-harness: loaded once, evaluated as often as needed, alike each time."""

import contextlib
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcr_lens.errors import InputError, one_line

__all__ = ["evaluate_tasks", "load_tasks"]

# Of lm_eval.simple_evaluate: Python's generator, and everything else (NumPy's, and the few-shot examples').
_SEEDS = (0, 1234)


def load_tasks(
    tasks: Any, include_path: str | Path | None, num_fewshot: int | None, seed: int | None
) -> dict[str, Any]:
    """What ``lm_eval`` loads under these names, with the number of few-shot examples set.

    Raises:
        InputError: for tasks that are unknown, cannot be loaded, or that no lens can answer.
    """
    specs = [tasks] if isinstance(tasks, str | Path | Mapping) else list(tasks)
    specs = [str(spec) if isinstance(spec, Path) else spec for spec in specs]
    if not specs:
        raise InputError("no tasks: give at least one name or file, such as 'arc_easy'")
    if include_path is not None and not Path(include_path).expanduser().is_dir():
        raise InputError(f"{include_path}: no such folder; include_path is a folder of task files")
    try:
        with _seeded(seed):
            loaded = _manager(specs, include_path).load(specs)
    except Exception as error:  # of YAML, data sets, the hub and the task's own code
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise InputError(
            f"{', '.join(map(str, specs))[:200]}: cannot be loaded ({reason}); use a name that "
            "`lm_eval ls tasks` lists and whose data can be had, or a YAML file"
        ) from error
    for name, task in loaded["tasks"].items():
        if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood"):
            raise InputError(
                f"task {name!r} has output_type {task.OUTPUT_TYPE}: only multiple_choice and loglikelihood "
                "can be answered from every depth; for perplexity there is lens_perplexity"
            )
        default = task.get_config("num_fewshot")
        if num_fewshot is not None and default != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif default is None:
            task.set_config(key="num_fewshot", value=0)
        number = task.get_config("num_fewshot")
        if number and _may_show_the_answer(task):
            raise InputError(
                f"task {name!r} has no documents for examples but those that are asked: use num_fewshot=0, "
                "or name another fewshot_split in its configuration"
            )
        pool = getattr(getattr(task, "sampler", None), "df", None)
        if pool is not None and number > len(pool):
            raise InputError(f"num_fewshot {number}: task {name!r} has {len(pool)} documents for examples")
    return loaded


def evaluate_tasks(
    lm: Any, loaded: dict[str, Any], limit: int | float | None, seed: int | None, *, silent: bool
) -> Any:
    """``lm_eval``'s own evaluation of a model, with what it logs of every document."""
    from lm_eval.evaluator import evaluate

    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=_SEEDS[1] if seed is None else seed)
    options: dict[str, Any] = {"limit": limit, "bootstrap_iters": 0, "log_samples": True}
    # Its progress bars cannot be switched off.
    with _seeded(seed), contextlib.redirect_stderr(io.StringIO()) if silent else contextlib.nullcontext():
        return evaluate(lm, loaded, **options)


def _may_show_the_answer(task: Any) -> bool:
    """Whether a question may be drawn as an example for itself, which ``lm_eval`` only warns of."""
    fewshot = getattr(task, "fewshot_cfg", None)
    if fewshot is None or fewshot.samples is not None:
        return False
    # From the test split it leaves out the question that is asked.
    if fewshot.split is not None:
        return not task.has_test_docs() and fewshot.split == task.get_config("validation_split")
    return not task.has_training_docs() and task.has_test_docs() != task.has_validation_docs()


def _manager(specs: Sequence[Any], include_path: str | Path | None) -> Any:
    """An index of tasks; the thousands that come with ``lm_eval`` are read only where they are needed."""
    from lm_eval.tasks import TaskManager

    folder = None if include_path is None else str(Path(include_path).expanduser())
    manager = TaskManager(include_path=folder, include_defaults=False)
    # What names its own data: a task of the folder, a file, or a whole configuration.
    independent = (
        "dataset_path" in spec
        if isinstance(spec, Mapping)
        else spec in manager.all_subtasks or Path(spec).is_file()
        for spec in specs
    )
    return manager if all(independent) else TaskManager(include_path=folder)


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Python's and NumPy's global generators, which tasks may draw from, set and put back."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(_SEEDS[0] if seed is None else seed)
    np.random.seed(_SEEDS[1] if seed is None else seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
