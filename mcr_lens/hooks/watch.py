"""Who watches a pass for Inf, NaN and lost attention, and which of their findings count."""

from collections.abc import Sequence
from dataclasses import dataclass

import xarray as xr

from mcr_lens.hooks.interventions import edits_a_pattern, shapes_attention
from mcr_lens.hooks.observe import AttentionObserver, Observer, ResidualObserver
from mcr_lens.hooks.observe_attention import LOST_ROW
from mcr_lens.hooks.observe_finite import FiniteObserver
from mcr_lens.hooks.observe_scores import LOST_SCORE, ScoreObserver
from mcr_lens.models import Hook, Model, model_facts
from mcr_lens.not_finite import warn_not_finite, without_lost_rows

__all__ = ["Watch"]


@dataclass(frozen=True)
class Watch:
    """The observers of a pass, with those that the engine adds to see what is broken.

    Attributes:
        observers: the added ones first.
        empties_rows: whether an edit may take all of a head's attention away; nothing is broken then.
    """

    observers: list[Observer]
    empties_rows: bool
    dtype: str

    @classmethod
    def over(
        cls, model: Model, observers: Sequence[Observer], edits: Sequence[Hook], attached: Sequence[str]
    ) -> "Watch":
        """For observers of a model under edits, and under hooks that it carries already, by their names."""
        facts, watching = model_facts(model), list(observers)
        empties_rows = edits_a_pattern(edits) or any(map(shapes_attention, attached))
        edited = [*attached, *(str(name) for name, _ in edits)]
        if facts.backend == "hooked_transformer" and any("attn_scores" in name for name in edited):
            watching.insert(0, ScoreObserver(model))
        if not any(isinstance(observer, ResidualObserver) for observer in observers):
            watching.insert(0, FiniteObserver(model, patterns=not empties_rows))
        return cls(watching, empties_rows, facts.dtype)

    @property
    def reads_attention(self) -> bool:
        """Whether a metric is made of attention patterns."""
        return any(isinstance(observer, AttentionObserver) for observer in self.observers)

    def result(self) -> xr.Dataset:
        """What the observers read, without what rests on attention that was lost."""
        results = [observer.result() for observer in self.observers]
        data = xr.merge(results, join="outer", compat="no_conflicts")
        if self.empties_rows:
            data = data.drop_vars(LOST_ROW, errors="ignore")
        for lost in (LOST_ROW, LOST_SCORE):
            if lost in data:
                whole = without_lost_rows(data, lost)
                # What an observer of attention found broken is broken for that of the residual stream, too.
                if not whole.not_finite_depth.equals(data.not_finite_depth):
                    warn_not_finite(whole, self.dtype)
                data = whole
        return data
