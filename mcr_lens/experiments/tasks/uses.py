"""One shape for every kind of task: how good each depth is, unit by unit."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from mcr_lens.errors import InputError

__all__ = ["Use", "check_metric", "choice_uses", "perplexity_use", "probe_uses", "sums_by"]


@dataclass(frozen=True)
class Use:
    """What a depth is used for, and how good each depth is at it.

    Attributes:
        name: as it stands in tables and figures.
        kind: ``"multiple choice"``, ``"generation"`` or ``"embedding"``.
        metric: ``"accuracy"`` (more is better) or ``"loss"`` in nats a token (less is better).
        depths: the depths that were measured, in order.
        values: of every unit at every depth: a document, a question, or the prompts of a group. Units are
            what is drawn anew for intervals.
        weights: of every unit; a document's number of tokens for a loss, a group's number of prompts.
        chance: the metric of an answer that knows nothing; NaN where nobody knows it.
    """

    name: str
    kind: Literal["multiple choice", "generation", "embedding"]
    metric: Literal["accuracy", "loss"]
    depths: Int[np.ndarray, "depth"]
    values: Float[np.ndarray, "unit depth"]
    weights: Float[np.ndarray, "unit"]
    chance: float

    def __post_init__(self) -> None:
        shape = (len(self.weights), len(self.depths))
        if self.values.shape != shape or not shape[0] or shape[1] < 2:
            raise InputError(
                f"{self.name}: values of shape {self.values.shape} for {shape[0]} units and {shape[1]} "
                "depths; give one a unit and depth, of two depths or more"
            )
        if np.isnan(self.values).any():
            raise InputError(f"{self.name}: some units have no value (NaN): leave these units out")

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.metric == "accuracy" else -1

    def curve(self) -> pd.Series:
        """The metric by depth over all units."""
        return pd.Series(self.weights @ self.values / self.weights.sum(), index=self.depths, name=self.name)


# One of the choices is answered, so that a blind guess is right once in as many.
_OF_CHOICES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")


def choice_uses(data: xr.Dataset, metric: str = "acc") -> list[Use]:
    """A use for every task of ``multiple_choice``; chance is one over the number of choices of a question.

    Chance is NaN for a task without choices or with several right ones, and for a metric other than ``acc``,
    ``acc_norm``, ``acc_bytes`` and ``acc_mutual_info``.

    Raises:
        InputError: for a metric that the results do not have, and for one that is no accuracy: that is not
            0 or 1 for every question, as a perplexity, or is better when it is lower.
    """
    check_metric(data, metric)
    complete = data.isel(document=~data[metric].isnull().any("depth").values)
    uses = []
    for task in dict.fromkeys(complete.task.values.tolist()):
        documents = complete.isel(document=complete.task.values == task)
        values, about = documents[metric].values, data.attrs.get("tasks", {}).get(task, {})
        _check_accuracy(task, metric, values, about)
        chance, weights = _chance(documents, metric, about), np.ones(len(values))
        depths = data.depth.values
        uses.append(Use(task, "multiple choice", "accuracy", depths, values, weights, chance))
    return uses


def check_metric(data: xr.Dataset, metric: str) -> None:
    """Raise ``InputError`` for what is no metric of these results of ``multiple_choice``."""
    metrics = [str(name) for name, values in data.items() if values.dims == ("document", "depth")]
    if metric not in metrics:
        raise InputError(f"metric {metric!r}: these results have {', '.join(metrics) or 'none'}")


def _check_accuracy(task: str, metric: str, values: np.ndarray, about: dict[str, Any]) -> None:
    lower = about.get("higher_is_better", {}).get(metric) is False
    if lower or not np.isin(values, (0, 1)).all():
        why = "lower is better" if lower else "a question has other values than 0 and 1"
        raise InputError(
            f"metric {metric!r} of task {task!r} is no accuracy ({why}): choose another, such as 'acc'; "
            "choice_summary gives any metric by depth"
        )


def _chance(documents: xr.Dataset, metric: str, about: dict[str, Any]) -> float:
    """Of a blind guess, the mean over questions; NaN where that is not known."""
    choices = documents["n_choices"].values if "n_choices" in documents.coords else np.zeros(1)
    known = metric in _OF_CHOICES and not about.get("several_right", False) and (choices > 0).all()
    return float((1 / choices).mean()) if known else float("nan")


def perplexity_use(data: xr.Dataset, name: str = "next token") -> Use:
    """The use of ``lens_perplexity``: the loss of every document, weighted by its tokens.

    Chance is the loss of a uniform guess where the results know the vocabulary, else NaN. Windows whose
    states hold Inf or NaN are left out at every depth, so that all depths are judged by the same text.
    """
    data = data.isel(prompt=~data.lens_loss.isnull().any("depth").values)
    if not data.sizes["prompt"]:
        raise InputError(f"{name}: no window has a loss at every depth: nothing to judge the depths by")
    predicted = (data.n_tokens - 1).values[:, None].astype(float)
    sums, tokens = (sums_by(data.document.values, x) for x in (predicted * data.lens_loss.values, predicted))
    vocabulary = data.attrs.get("d_vocab")
    chance = float(np.log(vocabulary)) if vocabulary else float("nan")
    return Use(name, "generation", "loss", data.depth.values, sums / tokens, tokens[:, 0], chance)


def probe_uses(data: xr.Dataset, name: str = "probe") -> list[Use]:
    """A use for every pooling of ``linear_probes``; chance is the training prompts' majority class.

    A unit is a group of ``linear_probes``: prompts of one group or with equal tokens, which are alike. Its
    value is the share of its prompts that were predicted right and its weight their number, so that a group
    is drawn, or left out to be judged by, as a whole.
    """
    chance = float(data.majority_correct.mean())
    group = data["group"].values
    sizes = sums_by(group, np.ones((len(group), 1)))
    uses = []
    for pooling in data.pooling.values:
        right = sums_by(group, data.correct.sel(pooling=pooling).transpose("prompt", "depth").values)
        title = f"{name}, {str(pooling).replace('_', ' ')}"
        depths = data.depth.values
        uses.append(Use(title, "embedding", "accuracy", depths, right / sizes, sizes[:, 0], chance))
    return uses


def sums_by(groups: np.ndarray, values: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "group column"]:
    """Sums over the rows of each group, groups in sorted order."""
    names, rows = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, rows, values)
    return sums
