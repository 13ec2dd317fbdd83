"""What the tasks gave: how good every depth is, in a table and as uses for ``best_depth``; no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mcr_lens.errors import InputError
from mcr_lens.experiments.lens_result import LensResult
from mcr_lens.experiments.tasks.uses import Use, sums_by
from mcr_lens.results import Result
from mcr_lens.stats.bootstrap import bootstrap_interval, bootstrap_ratio

__all__ = ["ChoiceResult", "EmbeddingResult", "PerplexityResult", "ProbeResult"]

# One of the choices is answered, so that a blind guess is right once in as many.
_OF_CHOICES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")


class EmbeddingResult(Result):
    """Scores of mteb tasks by depth: see ``embedding_tasks`` for what is in ``data``."""

    kind = "embedding tasks"
    dims = ("task", "depth", "pooling")


class PerplexityResult(LensResult):
    """The perplexity of a corpus by depth: see ``lens_perplexity`` for what is in ``data``."""

    kind = "lens perplexity"

    def summary(self) -> pd.DataFrame:
        """As of a lens, with the interval of the perplexity over documents."""
        interval = self.data[["perplexity_low", "perplexity_high"]].to_dataframe()
        return super().summary().join(interval)

    def uses(self, name: str = "next token") -> list[Use]:
        """One use: the loss of every document, weighted by its tokens.

        Chance is the loss of a uniform guess where the result knows the vocabulary, else NaN. Windows whose
        states hold Inf or NaN are left out at every depth, so that all depths are judged by the same text.
        """
        data = self.data.isel(prompt=~self.data.lens_loss.isnull().any("depth").values)
        if not data.sizes["prompt"]:
            raise InputError(f"{name}: no window has a loss at every depth: nothing to judge the depths by")
        predicted = (data.n_tokens - 1).values.astype(float)[:, None]
        tokens = sums_by(data.document.values, predicted)
        losses = sums_by(data.document.values, predicted * data.lens_loss.values) / tokens
        vocabulary = data.attrs.get("d_vocab")
        chance = float(np.log(vocabulary)) if vocabulary else float("nan")
        return [Use(name, "generation", "loss", data.depth.values, losses, tokens[:, 0], chance)]


class ChoiceResult(Result):
    """Answers to multiple-choice questions by depth: see ``multiple_choice`` for what is in ``data``."""

    kind = "multiple choice"
    dims = ("document", "depth")

    @property
    def metrics(self) -> list[str]:
        """The metrics that are one number a document."""
        return [str(name) for name, values in self.data.items() if values.dims == ("document", "depth")]

    def summary(self, metric: str = "acc", **resampling: Any) -> pd.DataFrame:
        """A metric of every task by depth: ``mean``, its interval ``low``..``high`` over documents, ``n``.

        Args:
            metric: one of ``metrics``.
            resampling: ``confidence``, ``n_resamples`` and ``seed`` of ``bootstrap_interval``.

        Raises:
            InputError: for a metric that is not there, or that no document has at every depth.
        """
        tables = {}
        for task, values in self._by_task(metric).items():
            low, high = bootstrap_interval(values.values, **resampling)
            columns = {"mean": values.values.mean(0), "low": low, "high": high, "n": len(values)}
            tables[task] = pd.DataFrame(columns, index=pd.Index(values.depth.values, name="depth"))
        if not tables:
            raise InputError(f"metric {metric!r}: no document has it at every depth; see not_finite_depth")
        return pd.concat(tables, names=["task"])

    def table(self) -> pd.DataFrame:
        """Means of every metric over the documents that have it at all depths, a row a task and depth."""
        if not self.metrics:  # no document has any
            return pd.DataFrame()
        values = self.data[self.metrics]
        return values.where(values.notnull().all("depth")).groupby("task").mean().to_dataframe()

    def uses(self, metric: str = "acc") -> list[Use]:
        """A use for every task; chance is one over the number of choices of a question.

        Chance is NaN for a task without choices or with several right ones, and for a metric other than
        ``acc``, ``acc_norm``, ``acc_bytes`` and ``acc_mutual_info``.

        Raises:
            InputError: for a metric that the result does not have, and for one that is no accuracy: that is
                not 0 or 1 for every question, as a perplexity, or is better when it is lower.
        """
        about = self.data.attrs.get("tasks", {})
        return [
            _use_of_task(task, metric, values, about.get(task, {}))
            for task, values in self._by_task(metric).items()
        ]

    def _by_task(self, metric: str) -> dict[str, xr.DataArray]:
        """The metric (document, depth) of every task, of the documents that have it at every depth."""
        if metric not in self.metrics:
            raise InputError(f"metric {metric!r}: these results have {', '.join(self.metrics) or 'none'}")
        complete = self.data[metric].dropna("document")
        tasks = dict.fromkeys(complete.task.values.tolist())
        return {task: complete[complete.task.values == task] for task in tasks}


class ProbeResult(Result):
    """Linear probes by pooling and depth: see ``linear_probes`` for what is in ``data``."""

    kind = "linear probes"
    dims = ("pooling", "depth", "prompt")

    def summary(self, **resampling: Any) -> pd.DataFrame:
        """Accuracy over the tested prompts with its interval, and its controls: a row a pooling and depth.

        The interval is over prompts, drawn anew a group at a time: it takes the probes as they were trained,
        and says how far the accuracy would move with other test prompts. Its options are those of
        ``bootstrap_interval``: ``confidence``, ``n_resamples`` and ``seed``.

        Returns:
            Columns ``pooling``, ``depth``, ``accuracy``, ``low``, ``high``, ``shuffled`` (where the control
            was run), ``majority`` and ``n`` (prompts).
        """
        data = self.data
        correct = data["correct"].stack(place=("pooling", "depth"))
        group = data["group"].values
        sums, sizes = sums_by(group, correct.values), sums_by(group, np.ones((len(group), 1)))
        low, high = bootstrap_ratio(sums, sizes, **resampling)
        table = correct.place.to_index().to_frame(index=False)
        table = table.assign(accuracy=correct.values.mean(0), low=low, high=high)
        if "shuffled_correct" in data:
            shuffled = data["shuffled_correct"].stack(place=("pooling", "depth"))
            table["shuffled"] = shuffled.mean("prompt").values
        return table.assign(majority=float(data["majority_correct"].mean()), n=len(group))

    def uses(self, name: str = "probe") -> list[Use]:
        """A use for every pooling; chance is the training prompts' majority class.

        A unit is a group of ``linear_probes``: prompts of one group or with equal tokens, which are alike.
        Its value is the share of its prompts that were predicted right and its weight their number, so that
        a group is drawn, or left out to be judged by, as a whole.
        """
        data = self.data.transpose("pooling", "prompt", ...)
        chance, group = float(data.majority_correct.mean()), data.group.values
        sizes = sums_by(group, np.ones((len(group), 1)))
        return [
            Use(
                f"{name}, {str(pooling).replace('_', ' ')}",
                "embedding",
                "accuracy",
                data.depth.values,
                sums_by(group, correct) / sizes,
                sizes[:, 0],
                chance,
            )
            for pooling, correct in zip(data.pooling.values, data.correct.values, strict=True)
        ]


def _use_of_task(task: str, metric: str, values: xr.DataArray, about: dict[str, Any]) -> Use:
    lower = about.get("higher_is_better", {}).get(metric) is False
    if lower or not np.isin(values, (0, 1)).all():
        why = "lower is better" if lower else "a question has other values than 0 and 1"
        raise InputError(
            f"metric {metric!r} of task {task!r} is no accuracy ({why}): choose another, such as 'acc'; "
            "summary(metric) gives any metric by depth"
        )
    # Of a blind guess, the mean over questions; NaN where that is not known.
    choices = values.coords["n_choices"].values if "n_choices" in values.coords else np.zeros(1)
    blind = metric in _OF_CHOICES and not about.get("several_right", False) and (choices > 0).all()
    chance = float((1 / choices).mean()) if blind else float("nan")
    weights = np.ones(len(values))
    return Use(task, "multiple choice", "accuracy", values.depth.values, values.values, weights, chance)
