"""What may be looked at: one prompt, as text, as ids or as ``Prompts`` of one; and notes about it."""

from __future__ import annotations

from collections.abc import Sequence

import mcr_lens as mcr
from mcr_lens.errors import InputError


def one_prompt(model: mcr.models.Model, text_or_tokens: mcr.prompts.PromptsLike) -> tuple[mcr.Prompts, str]:
    """The prompt that is looked at, and a note where only its beginning fits the model's context.

    A text gets the BOS that ``Prompts.from_texts`` puts first.

    Raises:
        InputError: for more than one prompt, and as ``as_prompts``.
    """
    facts, prompts = mcr.models.model_facts(model), mcr.prompts.as_prompts(text_or_tokens, model)
    if len(prompts) != 1:
        raise InputError(f"{len(prompts)} prompts: a view shows one prompt, give prompts[i:i + 1]")
    (length,) = prompts.lengths
    if length <= facts.n_ctx:
        return prompts, ""
    return prompts.cut(facts.n_ctx), f"Read: the first {facts.n_ctx} of {length} tokens, the model's context."


def note_of(*sentences: str, interventions: Sequence[mcr.models.Hook] = ()) -> str:
    """What a view says above itself, last under which edits the model ran; empty sentences are left out."""
    from mcr_lens.hooks.interventions import described

    edits = f"Under {'; '.join(described(interventions))}." if interventions else ""
    return " ".join(filter(None, (*sentences, edits)))


def cut_note(size: int, n_tokens: int, also: str = "") -> str:
    """What was cropped, in words; empty if nothing was."""
    return f"Cropped: the first {size} of {n_tokens} tokens are drawn{also}." if size < n_tokens else ""
