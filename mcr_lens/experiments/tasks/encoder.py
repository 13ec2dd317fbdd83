"""Depths of a model as text encoders for mteb, each text run through the model once."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mcr_lens.engine import measure
from mcr_lens.errors import InputError, require_extra
from mcr_lens.hooks.interventions import described
from mcr_lens.hooks.observers.pooled_states import PooledStates
from mcr_lens.models import Hook, Model, model_facts
from mcr_lens.prompts import Prompts
from mcr_lens.prompts.labelled import too_short

__all__ = ["DepthEncoder", "TextStates"]

_FIXED_TOKENS = 64


class TextStates:
    """Pooled states of texts at several depths: each text is run once, whoever asks for it.

    Args:
        model, pooling, depths, sink_position: as in ``PooledStates``.
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
        self.model = model
        self._observer = PooledStates(model, pooling, depths=depths, sink_position=sink_position)
        self.depths, self.poolings = self._observer.depths, self._observer.poolings
        max_tokens = model_facts(model).n_ctx if max_tokens is None else max_tokens
        self._tokenizing = {"max_tokens": max_tokens, "prepend_bos": prepend_bos}
        self._settings = {"sink_position": sink_position, **self._tokenizing}
        self._options = {"interventions": list(interventions), "progress": False, **options}
        self._keep = keep
        self._states: dict[str, Float[np.ndarray, "depth pooling d_model"]] = {}

    def of(self, texts: Sequence[str], depth: int, pooling: str) -> Float[np.ndarray, "text d_model"]:
        """The states of the texts at one depth and pooling, in their order.

        Raises:
            InputError: for a text of fewer than 2 tokens, a depth or pooling not held; as ``measure``.
        """
        place = self.place(depth, pooling)
        new = [text for text in dict.fromkeys(texts) if text not in self._states]
        states = self._states if self._keep else dict(self._states)
        if new:
            prompts = Prompts.from_texts(new, self.model, **self._tokenizing)
            for number in too_short(new, self.model, prompts):
                raise InputError(
                    f"text {new[number]!r} has fewer than 2 tokens and no state to pool: leave it out, "
                    "or use prepend_bos=True"
                )
            states.update(zip(new, self._measure(prompts), strict=True))
        width = model_facts(self.model).d_model
        return np.array([states[text][place] for text in texts], np.float32).reshape(len(texts), width)

    def forget(self) -> None:
        """Drop what is kept."""
        self._states.clear()

    @cached_property
    def of_fixed_tokens(self) -> Float[np.ndarray, "depth pooling d_model"]:
        """What the model gives for tokens that are always the same: other weights, other numbers."""
        facts = model_facts(self.model)
        tokens = [token % facts.d_vocab for token in range(min(_FIXED_TOKENS, facts.n_ctx))]
        return self._measure(Prompts((tuple(tokens),)))[0]

    def place(self, depth: int, pooling: str) -> tuple[int, int]:
        """Where a depth and a pooling stand among those that are held; ``InputError`` where one does not."""
        if depth not in self.depths or pooling not in self.poolings:
            raise InputError(
                f"depth {depth} with pooling {pooling!r} is not held; these are: depths {list(self.depths)}, "
                f"pooling {', '.join(self.poolings)}"
            )
        return self.depths.index(depth), self.poolings.index(pooling)

    def record(self) -> dict[str, Any]:
        """How texts become states, for a result."""
        return {"interventions": described(self._options["interventions"]), **self._settings}

    def _measure(self, prompts: Prompts) -> Float[np.ndarray, "prompt depth pooling d_model"]:
        data = measure(self.model, prompts, [self._observer], **self._options)
        states = data["pooled_state"].transpose("prompt", "depth", "pooling", "dimension").values
        if not np.isfinite(states).all():
            raise InputError(
                "states that are not finite embed nothing: load the model with dtype float32 or bfloat16"
            )
        return states


class DepthEncoder:
    """One depth of a model as an encoder for ``mteb.evaluate``: a text's embedding is its pooled state.

    Args:
        model: from ``load_model``.
        depth: of 0..L; 0 the embeddings of the tokens, L the state after the last block, before the final
            norm. -1 is L.
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
        self.depth = depth if depth >= 0 else model_facts(model).n_layers + 1 + depth
        self.pooling = pooling
        self._place = self.states.place(self.depth, pooling)

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
        require_extra("mteb", "embedding tasks", "tasks")
        from mteb.models.model_meta import ModelMeta

        facts = model_facts(self.states.model)
        settings = json.dumps([facts.attributes(), self.states.record()], default=str).encode()
        fingerprint = self.states.of_fixed_tokens[self._place].tobytes()
        return ModelMeta.create_empty(
            {
                "name": f"mcr_lens/{Path(facts.name).name}",
                "revision": hashlib.sha256(settings + fingerprint).hexdigest()[:16],
                "embed_dim": facts.d_model,
                "experiment_kwargs": {"depth": self.depth, "pooling": self.pooling},
                "use_instructions": False,
            }
        )
