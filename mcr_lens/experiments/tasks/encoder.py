"""Depths of a model as text encoders, and embedding benchmarks of mteb run over all of them."""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from tqdm.auto import tqdm

from mcr_lens.errors import InputError, one_line
from mcr_lens.experiments.tasks.text_states import TextStates
from mcr_lens.hooks.observers.pooled_states import checked_depths, checked_poolings
from mcr_lens.models import Model, model_facts

__all__ = ["DepthEncoder", "embedding_tasks"]


class DepthEncoder:
    """One depth of a model as an encoder for ``mteb.evaluate``: a text's embedding is its pooled state.

    Args:
        model: from ``load_model``.
        depth: of 0..L; 0 the embeddings of the tokens, L the state after the last block, before the final
            norm.
        pooling: ``"mean"``, ``"last"`` or ``"mean_without_sink"``; see ``PooledStates``.
        states: to share with encoders of other depths, so that each text is run once; made of ``options``
            (those of ``TextStates``) when not given, and then nothing is kept between calls.

    Embeddings are compared by their cosine. ``mteb`` keeps results in a cache of its own, by the name of the
    model, depth and pooling, and a revision that is made here of the settings and of what the model gives
    for some fixed tokens: other weights, another revision.

    Raises:
        InputError: without mteb; for a depth or a pooling that does not exist.

    Example:
        >>> import mcr_lens as mcr
        >>> encoder = DepthEncoder(mcr.load_model("tiny"), depth=3)
        >>> encoder.encode([{"text": ["Natalia has 4 clips.", "Natalia has 4 eggs."]}]).shape[0]
        2
    """

    def __init__(
        self,
        model: Model,
        depth: int,
        pooling: str = "mean",
        *,
        states: TextStates | None = None,
        **options: Any,
    ) -> None:
        self.states = states or TextStates(model, [depth], pooling, keep=False, **options)
        (self.depth,) = checked_depths([depth], model_facts(model).n_layers)
        (self.pooling,) = checked_poolings(pooling)
        self.states.place(self.depth, self.pooling)

    def encode(self, inputs: Iterable[Any], **_: Any) -> Float[np.ndarray, "text d_model"]:
        """Embeddings of the texts of a data loader: batches with a list under ``"text"``."""
        texts = [text for batch in inputs for text in batch["text"]]
        return self.states.of(texts, self.depth, self.pooling)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of every embedding of the first with every one of the second, (n1, n2)."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of each embedding of the first with its partner in the second, (n,)."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)

    @property
    def mteb_model_meta(self) -> Any:
        """What ``mteb`` records of an encoder."""
        _need_mteb()
        from mteb.models.model_meta import ModelMeta

        facts = model_facts(self.states.model)
        return ModelMeta.create_empty(
            {
                "name": f"mcr_lens/{Path(facts.name).name}",
                "revision": self._revision(),
                "embed_dim": facts.d_model,
                "experiment_kwargs": {"depth": self.depth, "pooling": self.pooling},
                "use_instructions": False,
            }
        )

    def _revision(self) -> str:
        settings = json.dumps(
            [model_facts(self.states.model).attributes(), self.states.record()], default=str
        )
        given = self.states.of_fixed_tokens[self.states.place(self.depth, self.pooling)]
        return hashlib.sha256(settings.encode() + given.tobytes()).hexdigest()[:16]


def embedding_tasks(
    model: Model,
    tasks: Any,
    depths: Sequence[int] | None = None,
    pooling: str | Sequence[str] = "mean",
    *,
    progress: bool = True,
    **options: Any,
) -> xr.Dataset:
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
        ``main_score`` (task, depth, pooling), the mean over the task's splits and subsets; which score that
        is stands in ``metric`` (task), such as ``"accuracy"`` or ``"cosine_spearman"``.

    Raises:
        InputError: without mteb or any task; for a task that is unknown or has no data here; for texts
            of fewer than 2 tokens; as ``measure``.
    """
    _need_mteb()
    import mteb

    several = isinstance(tasks, Iterable) and not isinstance(tasks, str | mteb.AbsTask)
    listed = [_task(task) for task in (tasks if several else [tasks])]
    if not listed:
        raise InputError("no tasks: give at least one, such as mteb.get_task('Banking77Classification')")
    states = TextStates(model, depths, pooling, **options)
    scores = np.full((len(listed), len(states.depths), len(states.poolings)), np.nan)
    bar = tqdm(total=scores.size, unit="score", desc="tasks", disable=None if progress else True)
    with bar:
        for number, task in enumerate(listed):
            bar.set_postfix_str(task.metadata.name)
            for place, score in _scores(task, model, states):
                scores[(number, *place)] = score
                bar.update()
    coords = {
        "task": [task.metadata.name for task in listed],
        "depth": list(states.depths),
        "pooling": list(states.poolings),
        "metric": ("task", [task.metadata.main_score for task in listed]),
    }
    data = xr.Dataset({"main_score": (("task", "depth", "pooling"), scores)}, coords)
    data.attrs = model_facts(model).attributes() | {"result": "embedding tasks", **states.record()}
    data.attrs["versions"] = data.attrs["versions"] | {"mteb": mteb.__version__}
    return data


def _scores(task: Any, model: Model, states: TextStates) -> Iterator[tuple[tuple[int, int], float]]:
    """The main score of one task by place, its data loaded and its texts run once."""
    import mteb

    was_loaded = task.data_loaded
    try:
        if not was_loaded:
            _load(task)
        for depth in states.depths:
            for pooling in states.poolings:
                encoder: Any = DepthEncoder(model, depth, pooling, states=states)
                found = mteb.evaluate(encoder, task, cache=None, co2_tracker=False, show_progress_bar=False)
                yield states.place(depth, pooling), float(found.task_results[0].get_score())
    finally:
        states.forget()
        if not was_loaded:
            task.unload_data()


def _task(task: Any) -> Any:
    import mteb

    if isinstance(task, mteb.AbsTask):
        return task
    if not isinstance(task, str):
        raise InputError(f"{task!r:.80} is no task: give names or tasks of mteb, as from mteb.get_tasks()")
    try:
        return mteb.get_task(task)
    except KeyError as error:
        raise InputError(f"mteb has no task {task!r}: mteb.get_tasks() lists them") from error


def _load(task: Any) -> None:
    try:
        task.load_data()
    except Exception as error:  # of data sets, the hub and the task's own code
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise InputError(f"{task.metadata.name}: its data cannot be loaded ({reason})") from error


def _need_mteb() -> None:
    """Raise ``InputError`` where mteb is not installed."""
    if importlib.util.find_spec("mteb") is None:
        raise InputError('embedding tasks need mteb: pip install "mcr-lens[tasks]"')
