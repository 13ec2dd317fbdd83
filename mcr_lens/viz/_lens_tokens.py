"""What every depth would say next, token by token. Every number comes from a lens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr

import mcr_lens as mcr
from mcr_lens.validate import check_count, check_indices
from mcr_lens.viz._prompt import cut_note, note_of, one_prompt
from mcr_lens.viz._tokens import token_texts
from mcr_lens.viz._view import View, fill

_MOST_DEPTHS = 13


def lens_tokens(
    model: mcr.models.Model,
    text_or_tokens: mcr.prompts.PromptsLike,
    top_k: int = 5,
    max_tokens: int = 64,
    *,
    depths: Iterable[int] | None = None,
    translators: mcr.hooks.Translators | None = None,
    interventions: Sequence[mcr.models.Hook] = (),
) -> View:
    """The best next token of every depth and position, the last depth on top; point at one for the ``top_k``.

    The shade is the probability of the best token; a green frame is the token that came. The predictions
    are those of ``logit_lens`` with the same arguments. Tokens see only what stands before them, so a
    prompt is cut to ``max_tokens`` before it is run; a note says so.

    Args:
        model: from ``load_model``.
        text_or_tokens: one text, the ids of one prompt, or ``Prompts`` of one.
        top_k: predictions in the hover.
        max_tokens: tokens that are run and drawn at most.
        depths: those that are drawn; ``None``: all, or thirteen spread evenly where there are more.
        translators: the tuned lens instead of the logit lens.
        interventions: hooks that edit; they run before the lens.

    Raises:
        InputError: for a depth that does not exist, more than one prompt, or what ``logit_lens`` refuses.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> lens_tokens(model, "Natalia sold clips to 48 friends.", top_k=3)
        View('tiny: logit lens, next token by depth'): the value of a notebook cell, or .save('view.html')
    """
    check_count("top_k", top_k)
    check_count("max_tokens", max_tokens, 2)
    prompts, context = one_prompt(model, text_or_tokens)
    (length,) = prompts.lengths
    ids = prompts.tokens[0][:max_tokens]
    n_depths = mcr.models.model_facts(model).n_layers + 1
    spread = np.linspace(0, n_depths - 1, min(n_depths, _MOST_DEPTHS)).round().astype(int)
    rows = check_indices("depths", spread.tolist() if depths is None else depths, n_depths)
    cut = mcr.Prompts((ids,), prompts.source)
    options = {"translators": translators, "top_k": top_k, "per_token": True, "progress": False}
    data = mcr.logit_lens(model, cut, interventions=interventions, **options).data.isel(prompt=0)
    title = f"{mcr.models.model_facts(model).name}: {data.attrs['lens']['kind']} lens, next token by depth"
    some = f"{len(rows)} of {n_depths} depths are drawn." if len(rows) < n_depths else ""
    texts = token_texts(model, ids)
    body = fill(
        "lens_tokens.html",
        note=note_of(cut_note(len(ids), length), context, some, interventions=interventions),
        texts=texts,
        rows={row: _cells(model, data.sel(depth=row), texts, ids) for row in sorted(rows, reverse=True)},
    )
    return View(title, body)


def _cells(model: mcr.models.Model, lens: xr.Dataset, texts: list[str], ids: Sequence[int]) -> list[Any]:
    """The predictions of one depth after each position; ``None`` where its logits hold Inf or NaN."""
    cells = []
    for position, best in enumerate(lens.top_token.values.astype(int).tolist()):
        if best[0] < 0:
            cells.append(None)
            continue
        at, has_next = lens.isel(position=position), position + 1 < len(ids)
        cell = {"names": token_texts(model, best), "chances": at.top_probability.values, "next": None}
        if has_next:
            cell["next"] = texts[position + 1]
            cell["chance_of_next"] = float(at.target_probability_by_token)
            cell["rank_of_next"] = int(at.target_rank_by_token) + 1
        cells.append(cell | {"is_hit": has_next and best[0] == ids[position + 1]})
    return cells
