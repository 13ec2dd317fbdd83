"""The heads of a layer with their sinks made visible (circuitsvis). Every number comes from an observer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.thresholds import SINK_THRESHOLD
from mcr_lens.validate import check_count, check_indices
from mcr_lens.viz._prompt import cut_note, note_of, one_prompt
from mcr_lens.viz._tokens import token_texts, visible
from mcr_lens.viz._view import View, fill

_TOP = 8
_MOST_CELLS = 150_000  # of all heads together: about half a megabyte, and what a browser draws in a second
_LONGEST_LABEL = 12  # characters of a token on an axis
_COLUMNS = (
    ("sink_score", "sink score", "mean attention to the sink position, over all queries"),
    ("sink_attention", "sink attention", "the same over the queries after the sink that may see it"),
    ("identity_score", "identity", "mean attention of a token to itself"),
    ("previous_token_score", "previous token", "mean attention to the token before"),
    ("mixing_score", "mixing", "entropy of the attention over its largest value: 1 is an even mixture"),
)


def attention_sinks(
    model: mcr.models.Model,
    text_or_tokens: mcr.prompts.PromptsLike,
    layer: int,
    heads: Literal["top", "all"] | Iterable[int] = "top",
    max_tokens: int = 64,
    *,
    sink_position: int = 0,
    interventions: Sequence[mcr.models.Hook] = (),
) -> View:
    """The heads of one layer on one prompt: their scores and roles in a table, their patterns underneath.

    Heads are sorted by their sink score, strongest first, and named with it and with their role: ``sink``,
    ``identity``, ``previous token``, ``mixing`` or ``other`` (see ``metrics.roles.head_roles``). The sink's
    column is framed and its token starred. Point at a head to see it large, click to keep it, point at a
    cell for its value (rounded to 0.001). The scores are those of a profile of the whole prompt, even where
    only its beginning is drawn; a note says what was cropped. One forward pass; the patterns of that layer
    alone are kept.

    Args:
        model: from ``load_model``.
        text_or_tokens: one text, the ids of one prompt, or ``Prompts`` of one.
        layer: the block whose heads are shown, 0..L-1.
        heads: ``"top"``, the eight with the largest sink scores; ``"all"``; or the numbers of some.
        max_tokens: tokens that are drawn at most; fewer where many heads are, so that the view stays small.
        sink_position: the token that is watched.
        interventions: hooks that edit; they run before the patterns are read.

    Returns:
        A view: a notebook shows it, ``.save("heads.html")`` writes a page that needs no network.

    Raises:
        InputError: for a layer, head or position that does not exist, more than one prompt, or a model
            whose patterns cannot be read.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> attention_sinks(model, "Natalia sold clips to 48 friends.", layer=4)
        View('tiny, layer 4: attention heads'): the value of a notebook cell, or .save('view.html')
    """
    check_count("max_tokens", max_tokens, 2)
    prompts, context = one_prompt(model, text_or_tokens)
    (length,) = prompts.lengths
    facts = mcr.models.model_facts(model)
    check_count("layer", layer, 0, facts.n_layers - 1)
    check_count("sink_position", sink_position, 0, length - 1)
    if isinstance(heads, str) and heads not in ("top", "all"):
        raise InputError(f"heads {heads!r}: use 'top', 'all' or numbers from 0..{facts.n_heads - 1}")
    numbers = check_indices("heads", range(facts.n_heads) if isinstance(heads, str) else heads, facts.n_heads)
    most = _TOP if isinstance(heads, str) and heads == "top" else len(numbers)
    size = min(length, max_tokens, max(2, math.isqrt(_MOST_CELLS // most)))
    observer = mcr.hooks.PatternObserver(model, [layer], sink_position=sink_position, max_tokens=size)
    data = mcr.measure(model, prompts, [observer], interventions=interventions, progress=False).isel(
        prompt=0, layer=0
    )
    ranked = [int(head) for head in np.argsort(-data.sink_score.values, kind="stable")]
    drawn = [head for head in ranked if head in numbers][:most]
    texts = token_texts(model, prompts.tokens[0])
    note = note_of(
        _summary(data, texts, sink_position),
        context,
        f"Shown: {len(drawn)} of {facts.n_heads} heads, by sink score." if len(drawn) < facts.n_heads else "",
        cut_note(size, length, f"; the scores are over all {length}"),
        f"The sink at position {sink_position} lies beyond them." if sink_position >= size else "",
        interventions=interventions,
    )
    body = fill(
        "attention_sinks.html",
        note=note,
        columns=_COLUMNS,
        heads=[_head(data.isel(head=head), texts, sink_position) for head in drawn],
        props=json.dumps(_props(data, drawn, texts[:size], sink_position), separators=(",", ":")),
    )
    return View(f"{facts.name}, layer {layer}: attention heads", body, draws_heads=True)


def _summary(data: xr.Dataset, texts: list[str], sink: int) -> str:
    above = int((data.sink_score >= SINK_THRESHOLD).sum())
    text = (
        f"{above} of {data.sizes['head']} heads have a sink score of {SINK_THRESHOLD} or more at position "
        f"{sink}, {_quoted(texts[sink])}."
    )
    learned = float(data.learned_sink_mass.max())
    if learned > 0.01:
        text += f" A learned sink that is no token takes up to {learned:.0%} of a head's attention."
    return text


def _head(data: xr.Dataset, texts: list[str], sink: int) -> dict[str, Any]:
    """A row of the table: scores, role, and the column that gets most."""
    from mcr_lens.metrics.roles import ROLES

    where = int(data.col_sum_argmax)
    return {
        "number": int(data["head"]),
        "role": ROLES[int(data.role)],
        "scores": {name: _number(data[name]) for name, *_ in _COLUMNS},
        "column": f"{_quoted(texts[where])} at {where}: {_number(data.col_sum_max)}",
        "at_sink": where == sink,
    }


def _props(data: xr.Dataset, heads: list[int], texts: list[str], sink: int) -> dict[str, Any]:
    """What the script draws: patterns up to the diagonal, in thousandths."""
    from mcr_lens.metrics.roles import ROLES

    patterns = np.rint(1000 * np.nan_to_num(data.pattern.values[heads])).astype(int)
    # The isolates keep a right-to-left token in its place.
    labels = [f"\u2068{visible(text, _LONGEST_LABEL)}\u2069" for text in texts]
    if sink < len(texts):
        labels[sink] = f"★{labels[sink]}"
    roles = [ROLES[int(role)] for role in data.role.values]
    return {
        "heads": [[row[: query + 1].tolist() for query, row in enumerate(pattern)] for pattern in patterns],
        "tokens": labels,
        "names": [f"H{head} {_number(data.sink_score[head])} {roles[head]}" for head in heads],
        "sink": sink,
    }


def _number(value: xr.DataArray) -> str:
    return "–" if bool(value.isnull()) else f"{float(value):.2f}"


def _quoted(text: str) -> str:
    return f"“{visible(text, 24)}”"
