"""Pooled states of texts, each text run through the model once: what encoders of several depths share."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from mcr_lens.engine import measure
from mcr_lens.errors import InputError
from mcr_lens.experiments.tasks.listed import listed_depths
from mcr_lens.hooks.intervene import described
from mcr_lens.hooks.observers.pooled_states import PooledStates, checked_depths, checked_poolings
from mcr_lens.models import Hook, Model, model_facts
from mcr_lens.not_finite import not_finite_note
from mcr_lens.prompts import Prompts
from mcr_lens.prompts.labelled import too_short

__all__ = ["TextStates"]

_FIXED_TOKENS = 64


class TextStates:
    """Pooled states of texts at several depths: each text is run once, whoever asks for it.

    Args:
        model, depths, pooling, sink_position: as in ``PooledStates``.
        interventions: hooks that edit; they run before the states are read.
        max_tokens: longer texts are cut to this many tokens; the model's context by default.
        keep: keep what was computed for the next call, (texts x depths x poolings x d_model) numbers in
            float32, until ``forget``.
        options: ``prepend_bos`` as in ``load_prompts``; ``batch_size`` and ``chunk`` as in ``measure``.
    """

    def __init__(
        self,
        model: Model,
        depths: Sequence[int] | None = None,
        pooling: str | Sequence[str] = "mean",
        *,
        interventions: Sequence[Hook] = (),
        sink_position: int = 0,
        max_tokens: int | None = None,
        prepend_bos: bool | None = None,
        keep: bool = True,
        **options: Any,
    ) -> None:
        facts = model_facts(model)
        self.model = model
        self.depths = checked_depths(listed_depths(depths), facts.n_layers)
        self.poolings = checked_poolings(pooling)
        self._interventions = list(interventions)
        self._sink_position = sink_position
        self._max_tokens = facts.n_ctx if max_tokens is None else max_tokens
        self._prepend_bos = prepend_bos
        self._keep = keep
        self._options = options
        self._known: dict[str, Float[np.ndarray, "depth pooling d_model"]] = {}

    def of(self, texts: Sequence[str], depth: int, pooling: str) -> Float[np.ndarray, "text d_model"]:
        """The states of the texts at one depth and pooling, in their order.

        Raises:
            InputError: for a text of fewer than 2 tokens, a depth or pooling not held; as ``measure``.
        """
        place = self.place(depth, pooling)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = self._known if self._keep else dict(self._known)
        if new:
            found.update(zip(new, self._run(new), strict=True))
        width = model_facts(self.model).d_model
        return np.stack([found[text][place] for text in texts]) if texts else np.zeros((0, width), np.float32)

    def forget(self) -> None:
        """Drop what is kept."""
        self._known.clear()

    @cached_property
    def of_fixed_tokens(self) -> Float[np.ndarray, "depth pooling d_model"]:
        """What the model gave for tokens that are always the same: other weights, other numbers."""
        facts = model_facts(self.model)
        tokens = [token % facts.d_vocab for token in range(min(_FIXED_TOKENS, facts.n_ctx))]
        return self._measure(Prompts.from_tokens([tokens]))[0]

    def place(self, depth: int, pooling: str) -> tuple[int, int]:
        """Where a depth and a pooling stand among those that are held.

        Raises:
            InputError: for one that is not.
        """
        if depth not in self.depths or pooling not in self.poolings:
            raise InputError(
                f"depth {depth} with pooling {pooling!r} is not held; these are: depths {list(self.depths)}, "
                f"pooling {', '.join(self.poolings)}"
            )
        return self.depths.index(depth), self.poolings.index(pooling)

    def record(self) -> dict[str, Any]:
        """How texts become states, for a result."""
        return {
            "interventions": described(self._interventions),
            "sink_position": self._sink_position,
            "max_tokens": self._max_tokens,
            "prepend_bos": self._prepend_bos,
        }

    def _run(self, texts: Sequence[str]) -> Float[np.ndarray, "text depth pooling d_model"]:
        options = {"max_tokens": self._max_tokens, "prepend_bos": self._prepend_bos}
        prompts = Prompts.from_texts(texts, self.model, **options)
        for place in too_short(texts, self.model, prompts):
            raise InputError(
                f"text {texts[place]!r} has fewer than 2 tokens and no state to pool: leave it out, "
                "or use prepend_bos=True"
            )
        return self._measure(prompts)

    def _measure(self, prompts: Prompts) -> Float[np.ndarray, "prompt depth pooling d_model"]:
        observer = PooledStates(
            self.model, self.poolings, depths=self.depths, sink_position=self._sink_position
        )
        data = measure(self.model, prompts, [observer], self._interventions, progress=False, **self._options)
        states = data["pooled_state"].transpose("prompt", "depth", "pooling", "dimension").values
        if not np.isfinite(states).all():
            note = not_finite_note(data) or "a pooled state overflows"
            raise InputError(
                "states that are not finite embed nothing: load the model with dtype float32 or bfloat16 "
                f"({note})"
            )
        return states
