"""Sinks on an example prompt: the one part of a report that runs a model."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcr_lens import models
from mcr_lens.errors import InputError
from mcr_lens.models import Model, model_facts
from mcr_lens.prompts.word_problems import word_problems
from mcr_lens.results import Profile
from mcr_lens.viz.one_prompt import TextOrTokens, one_prompt
from mcr_lens.viz.report_page.content import Block, Note, Section, Shown
from mcr_lens.viz.report_page.runs import Run
from mcr_lens.viz.report_page.safe import plain
from mcr_lens.viz.sink_strips import sink_tokens
from mcr_lens.viz.sinks import attention_sinks
from mcr_lens.viz.token_predictions import lens_tokens

__all__ = ["example_section"]

_TITLE = "Sinks on an example prompt"
# Weights that are loaded without being asked to; a larger model has to be named.
_MOST_BYTES = 4 * 2**30
_TOKENS = 48
_LENS_TOKENS = 24


def example_section(runs: Sequence[Run], model: Model | str | None, prompt: TextOrTokens | None) -> Section:
    """The heads of the layer with the most sinks, which tokens get the attention, and what comes next.

    Args:
        model: as ``load_model`` takes it; ``None``: of the first run whose model is at hand.
        prompt: ``None``: a made-up word problem.

    Raises:
        InputError: for a model or prompt that was given and cannot be used.
    """
    profiles = [run for run in runs if run.kind == "profile" and not run.attributes.get("interventions")]
    if model is not None:
        loaded = models.load_model(model)
        named = model_facts(loaded).name
        own = next((run for run in profiles if run.attributes.get("model") == named), None)
        return Section(_TITLE, _views(loaded, None if own is None else own.data, prompt))
    candidates = [*profiles, *(run for run in runs if run not in profiles)]
    for run in candidates:
        source, revision = _at_hand(run)
        if source is None:
            continue
        profile = run.data if run in profiles else None
        try:
            return Section(_TITLE, _views(models.load_model(source, revision=revision), profile, prompt))
        except InputError as error:
            # Nobody asked for this model: the report does without it and says why. A prompt was asked for.
            if prompt is not None:
                raise
            return Section(_TITLE, [Note(f"Not drawn: {error}.")])
    name = plain(candidates[0].attributes.get("model") or "the model", 80)
    text = (
        f"Not drawn: a file of results holds no weights, and {name} was not loaded unasked. Name the model "
        "to have its heads here: mcr-lens report RUN --model NAME-OR-FOLDER --prompt TEXT."
    )
    if prompt is not None:
        raise InputError(
            f"prompt: {name} is not loaded unasked; name the model as well, with model= or --model"
        )
    return Section(_TITLE, [Note(text)])


def _at_hand(run: Run) -> tuple[str | None, str | None]:
    """Where the model of a run can be had without a network, a question or a surprise.

    The bundled one, or a folder of this machine with weights that are plain numbers: a file from somebody
    else may name any folder, so nothing is loaded that could hold more than data.
    """
    name, revision = run.attributes.get("model"), run.attributes.get("revision")
    revision = revision if isinstance(revision, str) else None
    if name == "tiny":
        return "tiny", revision
    # Not relative, which depends on where one stands, and not of another machine.
    if not isinstance(name, str) or name.startswith(("//", "\\\\")) or not os.path.isabs(name):
        return None, None
    if not os.path.isdir(name):
        return None, None
    weights = list(Path(name).glob("*.safetensors"))
    size = sum(file.stat().st_size for file in weights)
    return (name, None) if weights and size <= _MOST_BYTES else (None, None)


def _views(model: Model, profile: Profile | None, prompt: TextOrTokens | None) -> list[Block]:
    text = word_problems(1)[0] if prompt is None else prompt
    prompts, context = one_prompt(model, text)
    facts = model_facts(model)
    (length,) = prompts.lengths
    sink = int(profile.data.attrs.get("sink_position", 0)) if profile is not None else 0
    sink = sink if 0 <= sink < length else 0
    layer = _most_sinks(profile, facts.n_layers)
    whose = "a made-up word problem" if prompt is None else "the prompt that was given"
    most = ", which has most of the attention on the sink token" if profile is not None else ""
    intro = (
        f"{facts.name} on {whose}, {length} tokens, untouched by any intervention. Below: the heads of "
        f"layer {layer}{most}; the attention that each token gets in a few layers; the next token that each "
        f"depth would predict. {context}"
    ).strip()
    strips = sorted({0, layer, facts.n_layers - 1})
    shown = [
        attention_sinks(model, prompts, layer, max_tokens=_TOKENS, sink_position=sink),
        sink_tokens(model, prompts, strips, max_tokens=4 * _TOKENS),
        lens_tokens(model, prompts, top_k=5, max_tokens=_LENS_TOKENS),
    ]
    return [Note(intro), *(Shown(view, script=i == 0) for i, view in enumerate(shown))]


def _most_sinks(profile: Profile | None, n_layers: int) -> int:
    """The layer with the largest mean sink score; the middle one where nobody knows."""
    if profile is None or "sink_score" not in profile.data or profile.data.sizes["layer"] != n_layers:
        return n_layers // 2
    means: Any = profile["sink_score"].mean(["prompt", "head"])
    return int(means.fillna(-1.0).values.argmax())
