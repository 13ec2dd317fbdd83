"""What every depth would say next, token by token. Every number comes from a lens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from mcr_lens.validate import check_count, check_indices
from mcr_lens.viz._prompt import cut_note, edit_note, notes, one_prompt
from mcr_lens.viz._tokens import escaped, token_texts, visible
from mcr_lens.viz._view import View

if TYPE_CHECKING:
    from mcr_lens.hooks import Translators
    from mcr_lens.models import Hook, Model
    from mcr_lens.prompts import PromptsLike

__all__ = ["lens_tokens"]

_MOST_DEPTHS = 13
_LONGEST_CELL = 9


def lens_tokens(
    model: Model,
    text_or_tokens: PromptsLike,
    top_k: int = 5,
    max_tokens: int = 64,
    *,
    depths: Iterable[int] | None = None,
    translators: Translators | None = None,
    interventions: Sequence[Hook] = (),
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
    from mcr_lens.experiments import logit_lens
    from mcr_lens.models import model_facts
    from mcr_lens.prompts import Prompts

    check_count("top_k", top_k)
    check_count("max_tokens", max_tokens, 2)
    prompts, context = one_prompt(model, text_or_tokens)
    (length,) = prompts.lengths
    ids = prompts.tokens[0][:max_tokens]
    n_depths = model_facts(model).n_layers + 1
    spread = np.linspace(0, n_depths - 1, min(n_depths, _MOST_DEPTHS)).round().astype(int)
    rows = check_indices("depths", spread.tolist() if depths is None else depths, n_depths)
    cut = Prompts.from_tokens([ids], prompts.source)
    options = {"translators": translators, "top_k": top_k, "per_token": True, "progress": False}
    data = logit_lens(model, cut, interventions=interventions, **options).data.isel(prompt=0)
    title = f"{model_facts(model).name}: {data.attrs['lens']['kind']} lens, next token by depth"
    some = f"{len(rows)} of {n_depths} depths are drawn." if len(rows) < n_depths else ""
    note = notes(cut_note(len(ids), length), context, some, edit_note(interventions))
    body = (
        '<p class="mcr-note">Shade: probability of the best token, 0<span class="mcr-legend"></span>1. Green '
        f"frame: the token that came. {note}</p>{_table(model, data, ids, sorted(rows, reverse=True))}"
    )
    return View(title, body)


def _table(model: Model, data: xr.Dataset, ids: Sequence[int], depths: list[int]) -> str:
    """Depths by positions; above them the tokens that were read."""
    texts = token_texts(model, ids)
    read = "".join(
        f'<th class="mcr-token" title="{escaped(f"position {i}: {visible(text)}")}">'
        f"<bdi>{escaped(visible(text, _LONGEST_CELL))}</bdi></th>"
        for i, text in enumerate(texts)
    )
    rows = []
    for depth in depths:
        at_depth = data.sel(depth=depth)
        cells = "".join(_cell(model, at_depth.isel(position=i), texts, ids, i) for i in range(len(ids)))
        rows.append(f'<tr><th class="mcr-depth">{depth}</th>{cells}</tr>')
    return (
        '<div class="mcr-scroll"><table class="mcr-lens"><thead><tr>'
        f'<th class="mcr-depth">depth</th>{read}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _cell(model: Model, lens: xr.Dataset, texts: list[str], ids: Sequence[int], position: int) -> str:
    """One prediction: the best token, and the others in the hover."""
    best = [int(token) for token in lens.top_token.values]
    if best[0] < 0:  # its logits hold Inf or NaN
        return f'<td class="mcr-token" title="after position {position}: Inf or NaN in the logits">–</td>'
    names = token_texts(model, best)
    chances = lens.top_probability.values
    lines = [f"{chance:7.1%}  {visible(name, 24)}" for chance, name in zip(chances, names, strict=True)]
    has_next = position + 1 < len(ids)
    if has_next:
        lines.append(
            f"came: {visible(texts[position + 1], 24)}, {float(lens.target_probability_by_token):.1%}, "
            f"rank {int(lens.target_rank_by_token) + 1}"
        )
    hit = " mcr-hit" if has_next and best[0] == ids[position + 1] else ""
    shade = f"background:rgba(0,114,178,{0.85 * float(chances[0]):.3f})"
    tip = f"after position {position}, depth {int(lens.depth)}\n" + "\n".join(lines)
    return (
        f'<td class="mcr-token{hit}" style="{shade}" title="{escaped(tip)}">'
        f"<bdi>{escaped(visible(names[0], _LONGEST_CELL))}</bdi></td>"
    )
