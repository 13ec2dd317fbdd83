"""One side of every prompt pair, run with a patch or without, and judged by a metric."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mcr_lens.engine import check_prompts
from mcr_lens.errors import InputError
from mcr_lens.experiments.patching.logit_metrics import LogitMetric, logits_at
from mcr_lens.experiments.patching.prompt_pairs import PairBatch, PromptPairs
from mcr_lens.hooks.context import BatchContext, running
from mcr_lens.hooks.interventions import check_hooks, keep_shapes
from mcr_lens.hooks.observers.nonfinite import NonFinite
from mcr_lens.models import Hook, Model, batch_cost, model_facts
from mcr_lens.models.backend import run
from mcr_lens.not_finite import NotFiniteWarning, remedy
from mcr_lens.prompts import as_prompts

__all__ = ["PairRuns", "Side", "metric_name"]

Side = Literal["clean", "corrupt"]


@dataclass(frozen=True)
class PairRuns:
    """What every run of a sweep has in common, checked before the first of them."""

    model: Model
    pairs: PromptPairs
    metric: LogitMetric
    batch_size: int | Literal["auto"]
    interventions: Mapping[Side, Sequence[Hook]]
    clean_logits: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    reads_padding: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, PromptPairs):
            raise InputError(f"pairs is a {type(self.pairs).__name__}: use PromptPairs(clean, corrupt)")
        if not callable(self.metric):
            raise InputError(f"metric {self.metric!r}: give a function (logits, pairs) -> [batch]")
        sides = [as_prompts(side, self.model) for side in (self.pairs.clean, self.pairs.corrupt)]
        pairs = PromptPairs(sides[0], sides[1], self.pairs.answers, self.pairs.wrong_answers)
        object.__setattr__(self, "pairs", pairs)
        for side, hooks in self.interventions.items():
            check_prompts(self.model, getattr(self.pairs, side), self.batch_size)
            check_hooks(self.model, hooks, min(self.pairs.lengths))
        facts = model_facts(self.model)
        for token in (*(self.pairs.answers or ()), *(self.pairs.wrong_answers or ())):
            if not 0 <= token < facts.d_vocab:
                raise InputError(
                    f"answer {token} is outside the vocabulary 0..{facts.d_vocab - 1} of {facts.name}: "
                    "was it tokenised for another model?"
                )

    def values(
        self, side: Side, patch: Sequence[Hook] = (), positions: Sequence[int] | None = None
    ) -> np.ndarray:
        """The metric of each pair, one side run with a patch; NaN for pairs that lack a position of it.

        NaN, too, where the metric or a state of the run is Inf or NaN; ``broken`` keeps the pair and the
        first run that did it. NaN where the metric reads logits at padding; ``reads_padding`` keeps
        the pair.
        """
        has = np.array([all(-n <= at < n for at in positions or ()) for n in self.pairs.lengths])
        values = np.full(len(self.pairs), np.nan)
        size = None if self.batch_size == "auto" else self.batch_size
        for batch in self.pairs.batches(size, batch_cost(self.model)):
            rows = np.array(batch.pairs)
            if has[rows].any():
                values[rows] = np.where(has[rows], self._metric(side, patch, batch), np.nan)
        run = f"{side} run, {patch[0][0]} patched" if patch else f"{side} run"
        for pair in {*np.flatnonzero(has & ~np.isfinite(values)).tolist()} - self.reads_padding:
            self.broken.setdefault(pair, run)
        return np.where(np.isfinite(values), values, np.nan)

    def warn_broken(self) -> None:
        """Name the first pair whose metric was Inf or NaN, and the first whose metric reads padding."""
        if self.reads_padding:
            first, n_such = min(self.reads_padding), len(self.reads_padding)
            warnings.warn(
                f"{metric_name(self.metric)} reads logits behind the last token of {n_such} of "
                f"{len(self.pairs)} prompts, first of prompt {first}, which has {self.pairs.lengths[first]}: "
                "that is padding, so NaN in the result; use mcr_lens.experiments.logits_at(logits, "
                "pairs.lengths), not logits[:, -1]",
                stacklevel=3,
            )
        if self.broken:
            first = min(self.broken)
            warnings.warn(
                f"{metric_name(self.metric)} rests on Inf or NaN for {len(self.broken)} of {len(self.pairs)} "
                f"prompts, first for prompt {first} ({self.broken[first]}): NaN in the result, and left out "
                f"of every mean.{remedy(model_facts(self.model).dtype)}",
                NotFiniteWarning,
                stacklevel=3,
            )

    def _metric(self, side: Side, patch: Sequence[Hook], batch: PairBatch) -> np.ndarray:
        tokens = getattr(batch, side)
        nonfinite = NonFinite(self.model)
        hooks = nonfinite.around(keep_shapes([*self.interventions[side], *patch]))
        # The patch leaves a shorter pair alone; the user's interventions are not let off a position.
        with running(BatchContext(0, batch.lengths, batch.pairs, tokens, grows=bool(patch))):
            logits = run(self.model, tokens.to(self.model.cfg.device), hooks)
        assert logits is not None
        if side == "clean" and not patch:
            self.clean_logits[batch.pairs] = logits_at(logits, batch.lengths).cpu()
        judged = replace(batch, clean_logits=self.clean_logits[batch.pairs])
        begins = nonfinite.result().not_finite_depth.sel(prompt=list(batch.pairs)).values
        is_padding = torch.arange(tokens.shape[1]) >= batch.lengths[:, None]
        if not bool(is_padding.any()):
            return np.where(begins >= 0, np.nan, self._judge(logits, judged))
        # A metric that reads padding shows NaN. One of whole numbers, such as an accuracy, cannot: it is
        # tried with two kinds of padding, NaN and the logits at the last real token, and must say the same.
        is_padding = is_padding.to(logits.device)[..., None]
        values = self._judge(logits.masked_fill(is_padding, torch.nan), judged)
        rows = torch.arange(len(logits), device=logits.device)
        last = logits[rows, batch.lengths.to(logits.device) - 1][:, None]
        reads = ~_same(values, self._judge(torch.where(is_padding, last, logits), judged)) & (begins < 0)
        self.reads_padding.update(np.array(batch.pairs)[reads].tolist())
        return np.where(reads | (begins >= 0), np.nan, values)

    def _judge(self, logits: Tensor, batch: PairBatch) -> np.ndarray:
        """The metric's values, one a prompt; ``InputError`` for anything else."""
        values = self.metric(logits, batch)
        if not isinstance(values, Tensor) or values.shape != (len(batch.pairs),):
            what = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"metric {metric_name(self.metric)} gave {what} for {len(batch.pairs)} prompts: "
                f"return a tensor of one number a prompt, ({len(batch.pairs)},)"
            )
        return values.detach().cpu().double().numpy()


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two metrics agree, up to rounding: sums may come in another order."""
    return np.isclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)


def metric_name(metric: Any) -> str:
    """What a metric is called in results and messages, options included."""
    if isinstance(metric, partial):
        options = ", ".join(f"{key}={value}" for key, value in metric.keywords.items())
        return f"{metric_name(metric.func)}({options})"
    return getattr(metric, "__name__", type(metric).__name__)
