"""Sinks on an example prompt: the one part of a report that runs a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.phases.curves import primary_sink
from mcr_lens.results import Profile
from mcr_lens.viz._attention_sinks import attention_sinks
from mcr_lens.viz._lens_tokens import lens_tokens
from mcr_lens.viz._prompt import one_prompt
from mcr_lens.viz._report.gather import Run
from mcr_lens.viz._report.html import plain
from mcr_lens.viz._sink_tokens import sink_tokens

# Weights that are loaded without being asked to; a larger model has to be named.
_MOST_BYTES = 4 * 2**30
_TOKENS = 48
_LENS_TOKENS = 24


def example(
    runs: Sequence[Run], model: mcr.models.Model | str | None, prompt: mcr.prompts.PromptsLike | None
) -> dict[str, Any]:
    """The heads of the layer with the most sinks, which tokens get the attention, and what comes next.

    Args:
        model: as ``load_model`` takes it; ``None``: of the first run whose model is at hand.
        prompt: ``None``: a made-up word problem.

    Returns:
        What the template shows; ``not_loaded`` or ``error`` where there are no views.

    Raises:
        InputError: for a model or prompt that was given and cannot be used.
    """
    untouched = [run for run in runs if run.kind == "profile" and not run.attributes.get("interventions")]
    source, revision = model, None
    if model is None:
        candidates = [*untouched, *(run for run in runs if run not in untouched)]
        run = next((run for run in candidates if _is_at_hand(run.attributes.get("model"))), None)
        if run is None:
            name = plain(candidates[0].attributes.get("model") or "the model", 80)
            if prompt is not None:
                raise InputError(f"prompt: {name} is not loaded unasked; name it with model= or --model")
            return {"not_loaded": name}
        source, untouched = run.attributes["model"], [run] if run in untouched else []
        # A folder holds one revision.
        revision = run.attributes.get("revision") if source == "tiny" else None
    try:
        loaded = mcr.models.load_model(source, revision=revision)
        name = mcr.models.model_facts(loaded).name
        profiles = (run.content for run in untouched if run.attributes.get("model") == name)
        return _views(loaded, next(profiles, None), prompt)
    except InputError as error:
        # Nobody asked for this model: the report does without it and says why.
        if model is not None or prompt is not None:
            raise
        return {"error": str(error)}


def _is_at_hand(name: object) -> bool:
    """Whether a model can be had without a network, a question or a surprise.

    The bundled one, or a folder of this machine with weights that are plain numbers: a file from somebody
    else may name any folder, so nothing is loaded that could hold more than data.
    """
    # Not relative, which depends on where one stands, and not of another machine.
    if not isinstance(name, str) or name.startswith(("//", "\\\\")) or not os.path.isabs(name):
        return name == "tiny"
    files = Path(name).glob("*.safetensors") if os.path.isdir(name) else ()
    return 0 < sum(file.stat().st_size for file in files) <= _MOST_BYTES


def _views(
    model: mcr.models.Model, profile: Profile | None, prompt: mcr.prompts.PromptsLike | None
) -> dict[str, Any]:
    prompts, context = one_prompt(model, mcr.prompts.word_problems(1)[0] if prompt is None else prompt)
    facts = mcr.models.model_facts(model)
    (length,) = prompts.lengths
    sink, layer, has_most = 0, facts.n_layers // 2, False
    if profile is not None:
        position = primary_sink(profile.data)
        sink = position if 0 <= position < length else 0
        has_most = "sink_score" in profile and profile.data.sizes["layer"] == facts.n_layers
    if profile is not None and has_most:
        layer = int(profile["sink_score"].mean(["prompt", "head"]).fillna(-1.0).values.argmax())
    views = [
        attention_sinks(model, prompts, layer, max_tokens=_TOKENS, sink_position=sink),
        sink_tokens(model, prompts, sorted({0, layer, facts.n_layers - 1}), max_tokens=4 * _TOKENS),
        lens_tokens(model, prompts, top_k=5, max_tokens=_LENS_TOKENS),
    ]
    words = {"model": facts.name, "n_tokens": length, "layer": layer, "has_most": has_most}
    return words | {"views": views, "is_made_up": prompt is None, "context": context}
