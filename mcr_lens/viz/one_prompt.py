"""What may be looked at: one prompt, as text, as ids or as ``Prompts`` of one; and some of its numbers."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.interventions import described
from mcr_lens.models import Hook, Model, model_facts
from mcr_lens.numeric import is_whole
from mcr_lens.prompts import Prompts

__all__ = ["TextOrTokens", "chosen", "cut_note", "edit_note", "one_prompt"]

TextOrTokens = str | Sequence[int] | Tensor | Prompts


def one_prompt(model: Model, given: TextOrTokens) -> tuple[Prompts, str]:
    """The prompt that is looked at, and a note where only its beginning fits the model's context.

    A text gets the BOS that ``Prompts.from_texts`` puts first.

    Raises:
        InputError: for more than one prompt, or anything but a text, ids (pos) or (1, pos), or ``Prompts``.
    """
    facts = model_facts(model)
    prompts = _as_prompts(model, given)
    (length,) = prompts.lengths
    if length <= facts.n_ctx:
        return prompts, ""
    return prompts.cut(facts.n_ctx), f"Read: the first {facts.n_ctx} of {length} tokens, the model's context."


def _as_prompts(model: Model, given: TextOrTokens) -> Prompts:
    if isinstance(given, str):
        return Prompts.from_texts([given], model, source="text")
    if isinstance(given, Prompts):
        if len(given) != 1:
            raise InputError(f"{len(given)} prompts: a view shows one, give prompts[i:i + 1]")
        return given
    try:
        ids = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"text_or_tokens: give a text, or the token ids of one prompt ({error})") from error
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.ndim != 1 or ids.is_floating_point():
        raise InputError(
            f"tokens of shape {tuple(ids.shape)} and {ids.dtype}: give ids of one prompt, (pos) or (1, pos)"
        )
    return Prompts.from_tokens([ids.tolist()])


def chosen(word: str, given: int | Iterable[int], count: int) -> list[int]:
    """One or several of the layers, heads, depths or positions 0..count - 1, each once, in the given order.

    Raises:
        InputError: for one that is not there, or none at all.
    """
    listed = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if not listed:
        raise InputError(f"no {word} to draw: name at least one of 0..{count - 1}")
    for number in listed:
        if not is_whole(number, 0, count):
            raise InputError(f"{word} {number!r}: use whole numbers from 0..{count - 1}")
    return list(dict.fromkeys(int(number) for number in listed))


def cut_note(shown: int, n_tokens: int, also: str = "") -> str:
    """What was cropped, in words; empty if nothing was."""
    if shown >= n_tokens:
        return ""
    return f"Cropped: the first {shown} of {n_tokens} tokens are drawn{also}."


def edit_note(interventions: Sequence[Hook]) -> str:
    """Which edits the model was run under, in words; empty if it was left alone."""
    return f"Under {'; '.join(described(interventions))}." if interventions else ""
