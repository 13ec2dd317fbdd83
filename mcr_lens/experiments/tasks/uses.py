"""One shape for every kind of task: how good each depth is, unit by unit."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from mcr_lens.errors import InputError

__all__ = ["Use", "choice_uses", "perplexity_use", "probe_uses"]

Metric = Literal["accuracy", "loss"]


@dataclass(frozen=True)
class Use:
    """What a depth is used for, and how good each depth is at it.

    Attributes:
        name: as it stands in tables and figures.
        kind: ``"multiple choice"``, ``"generation"`` or ``"embedding"``.
        metric: ``"accuracy"`` (more is better) or ``"loss"`` in nats a token (less is better).
        depths: the depths that were measured, in order.
        values: of every unit (document, prompt) at every depth.
        weights: of every unit; a document's number of tokens for a loss.
        chance: the metric of an answer that knows nothing; NaN where nobody knows it.
    """

    name: str
    kind: Literal["multiple choice", "generation", "embedding"]
    metric: Metric
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


def choice_uses(data: xr.Dataset, metric: str = "acc") -> list[Use]:
    """A use for every task of ``multiple_choice``; chance is one over the number of choices.

    Raises:
        InputError: for a metric that the results do not have.
    """
    if metric not in data or data[metric].dims != ("document", "depth"):
        there = [str(name) for name, values in data.items() if values.dims == ("document", "depth")]
        raise InputError(f"metric {metric!r}: these results have {', '.join(there) or 'none'}")
    uses = []
    for task in dict.fromkeys(data.task.values.tolist()):
        of_task = data.isel(document=np.flatnonzero(data.task.values == task))
        values = of_task[metric].values
        known = ~np.isnan(values).any(1)
        if known.any():
            choices = of_task["log_likelihood"].isel(depth=-1).notnull().sum("choice").values[known]
            chance = float((1 / choices).mean())
            uses.append(_use(task, "multiple choice", "accuracy", data, values[known], chance))
    return uses


def perplexity_use(data: xr.Dataset, name: str = "next token") -> Use:
    """The use of ``lens_perplexity``: the loss of every document, weighted by its tokens.

    Chance is the loss of a uniform guess where the results know the vocabulary, else NaN.
    """
    predicted = (data.n_tokens - 1).values.astype(float)
    _, rows = np.unique(data.document.values, return_inverse=True)
    tokens = np.bincount(rows, predicted)
    losses = np.stack(
        [np.bincount(rows, predicted * column) / tokens for column in data.lens_loss.values.T], axis=1
    )
    vocabulary = data.attrs.get("d_vocab")
    chance = float(np.log(vocabulary)) if vocabulary else float("nan")
    return _use(name, "generation", "loss", data, losses, chance, tokens)


def probe_uses(data: xr.Dataset, name: str = "probe") -> list[Use]:
    """A use for every pooling of ``linear_probes``; chance is the training prompts' majority class."""
    chance = float(data.majority_correct.mean())
    return [
        _use(
            f"{name}, {str(pooling).replace('_', ' ')}",
            "embedding",
            "accuracy",
            data,
            data.correct.sel(pooling=pooling).transpose("prompt", "depth").values.astype(float),
            chance,
        )
        for pooling in data.pooling.values
    ]


def _use(
    name: str,
    kind: Literal["multiple choice", "generation", "embedding"],
    metric: Metric,
    data: xr.Dataset,
    values: np.ndarray,
    chance: float,
    weights: np.ndarray | None = None,
) -> Use:
    weights = np.ones(len(values)) if weights is None else weights
    return Use(name, kind, metric, data.depth.values, values, weights, chance)
