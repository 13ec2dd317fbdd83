"""One shape for every kind of task: how good each depth is, unit by unit."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mcr_lens.errors import InputError

__all__ = ["Use", "sums_by"]


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


def sums_by(groups: np.ndarray, values: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "group column"]:
    """Sums over the rows of each group, groups in sorted order."""
    names, rows = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, rows, values)
    return sums
