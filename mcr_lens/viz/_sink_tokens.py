"""Which tokens attention goes to: the prompt, shaded, layer by layer. Every number comes from an observer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import xarray as xr

import mcr_lens as mcr
from mcr_lens.thresholds import SINK_THRESHOLD
from mcr_lens.validate import check_count, check_indices
from mcr_lens.viz._prompt import cut_note, note_of, one_prompt
from mcr_lens.viz._tokens import token_texts
from mcr_lens.viz._view import View, fill

_MOST_TOKENS = 4_000  # of all strips together


def sink_tokens(
    model: mcr.models.Model,
    text_or_tokens: mcr.prompts.PromptsLike,
    layers: int | Iterable[int] | None = None,
    max_tokens: int = 64,
    *,
    interventions: Sequence[mcr.models.Hook] = (),
) -> View:
    """A prompt with every token shaded by the attention it receives, a strip per layer.

    The shade is the mean over heads of the column mean ``C_k = (1/T) sum_q A_qk``, with T the whole prompt:
    the first token of most models, and secondary sinks such as a full stop or a newline. A token is framed
    where at least one head has ``C_k`` of 0.3 or more. Pointing at a token names the strongest head. One
    forward pass; a note says what was cropped.

    Args:
        model: from ``load_model``.
        text_or_tokens: one text, the ids of one prompt, or ``Prompts`` of one.
        layers: one layer, or several; ``None`` for all.
        max_tokens: tokens that are drawn at most; fewer where many layers are.
        interventions: hooks that edit; they run before the patterns are read.

    Raises:
        InputError: for a layer that does not exist, more than one prompt, or a model whose patterns cannot
            be read.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> sink_tokens(model, "Natalia sold clips to 48 friends.", layers=[0, 4])
        View('tiny: attention received, by token'): the value of a notebook cell, or .save('view.html')
    """
    check_count("max_tokens", max_tokens, 2)
    prompts, context = one_prompt(model, text_or_tokens)
    (length,) = prompts.lengths
    facts = mcr.models.model_facts(model)
    layers = check_indices("layers", range(facts.n_layers) if layers is None else layers, facts.n_layers)
    size = min(length, max_tokens, max(2, _MOST_TOKENS // len(layers)))
    observer = mcr.hooks.PatternObserver(model, layers, max_tokens=size, patterns=False)
    data = mcr.measure(model, prompts, [observer], interventions=interventions, progress=False).isel(prompt=0)
    texts = token_texts(model, prompts.tokens[0][:size])
    cut = cut_note(size, length, f"; means are over all {length} queries")
    body = fill(
        "sink_tokens.html",
        threshold=SINK_THRESHOLD,
        note=note_of(cut, context, interventions=interventions),
        layers=[_strip(data.isel(layer=i), texts) for i in range(data.sizes["layer"])],
        n_heads=facts.n_heads,
    )
    return View(f"{facts.name}: attention received, by token", body)


def _strip(data: xr.Dataset, texts: list[str]) -> dict[str, Any]:
    """One layer: how many of its heads have a sink, and what every token gets."""
    columns = data.column_mean
    by_token = {
        "text": texts,
        "mean": columns.mean("head").values,
        "most": columns.max("head").values,
        "head": columns.fillna(-1.0).argmax("head").values,
        "above": (columns >= SINK_THRESHOLD).sum("head").values,
    }
    tokens = [dict(zip(by_token, token, strict=True)) for token in zip(*by_token.values(), strict=True)]
    rate = float((data.col_sum_max >= SINK_THRESHOLD).mean())
    return {"number": int(data.layer), "rate": rate, "tokens": tokens}
