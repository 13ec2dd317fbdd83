"""A lens over a set of prompts: one dataset, with how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mcr_lens.engine import measure
from mcr_lens.experiments.lens_result import LensResult
from mcr_lens.hooks.interventions import described
from mcr_lens.hooks.lenses.logit import LogitLens
from mcr_lens.hooks.lenses.translators import Translators
from mcr_lens.hooks.lenses.tuned import TunedLens
from mcr_lens.models import Hook, Model
from mcr_lens.prompts import PromptsLike

__all__ = ["lens_record", "logit_lens"]


def logit_lens(
    model: Model,
    prompts: PromptsLike,
    *,
    interventions: Sequence[Hook] = (),
    translators: Translators | None = None,
    top_k: int = 0,
    per_token: bool = False,
    batch_size: int | Literal["auto"] = "auto",
    chunk: int | Literal["auto"] | None = None,
    progress: bool = True,
) -> LensResult:
    """What every depth would predict of every prompt, read out through the model's own last step.

    Args:
        interventions: hooks that edit; they run before the lens.
        translators: from ``fit_tuned_lens`` or ``Translators.load``: the tuned lens, not the logit lens.
        top_k: also the best tokens of every position, (prompt, depth, position, k).
        per_token: also every variable before its mean over tokens.
        batch_size: prompts a batch; ``"auto"`` cuts where padding and batches cost least.
        chunk: feed prompts in chunks of this many tokens through the KV cache, as in ``profile``.

    Returns:
        ``.data``: the variables of ``LogitLens`` with ``lens_perplexity`` = exp(``lens_loss``), (prompt,
        depth); ``n_tokens`` and ``first_token`` of every prompt, and where its states stop to be finite (see
        ``measure``) or its logits are not (see ``LogitLens``). In ``attrs``: model, prompts, interventions,
        and under ``"lens"`` its kind (``"logit"`` or ``"tuned"``) and the translators' record.

    Raises:
        InputError: for what ``measure``, ``LogitLens`` or ``TunedLens`` refuse.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> prompts = mcr.load_prompts(mcr.prompts.word_problems(2), model)
        >>> lens = logit_lens(model, prompts, progress=False)
        >>> lens["lens_loss"].shape == (2, model.cfg.n_layers + 1), lens.headline
        (True, 'Logit lens of tiny, 2 prompts, 10 layers')
    """
    options: dict[str, Any] = {"top_k": top_k, "per_token": per_token}
    lens = LogitLens(model, **options) if translators is None else TunedLens(model, translators, **options)
    interventions = list(interventions)
    settings: dict[str, Any] = {"batch_size": batch_size, "chunk": chunk, "progress": progress}
    data = measure(model, prompts, [lens], interventions=interventions, **settings)
    with np.errstate(over="ignore"):  # a very bad prediction is infinitely perplexed
        data["lens_perplexity"] = np.exp(data.lens_loss)
    data.attrs |= {"lens": lens_record(translators), "interventions": described(interventions)}
    return LensResult(data)


def lens_record(translators: Translators | None) -> dict[str, Any]:
    """What a result stores about its lens."""
    if translators is None:
        return {"kind": "logit", "translators": None}
    return {"kind": "tuned", "translators": dict(translators.record)}
