"""What every depth would say next, token by token. Every number comes from a lens."""

from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr

from mcr_lens.experiments.lenses import logit_lens
from mcr_lens.hooks.lenses.translators import Translators
from mcr_lens.models import Hook, Model, model_facts
from mcr_lens.numeric import check_count
from mcr_lens.prompts import Prompts
from mcr_lens.viz.inline import View
from mcr_lens.viz.one_prompt import TextOrTokens, chosen, cut_note, edit_note, one_prompt
from mcr_lens.viz.tokens import escaped, token_texts, visible

__all__ = ["lens_tokens"]

_MOST_DEPTHS = 13
_LONGEST_CELL = 9


def lens_tokens(
    model: Model,
    text_or_tokens: TextOrTokens,
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
        InputError: for a depth that is not there, more than one prompt, or what ``logit_lens`` refuses.

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
    drawn = _drawn(depths, model_facts(model).n_layers)
    cut = Prompts.from_tokens([ids], prompts.source)
    data = logit_lens(
        model, cut, interventions, translators=translators, top_k=top_k, per_token=True, progress=False
    ).isel(prompt=0)
    title = f"{model_facts(model).name}: {data.attrs['lens']['kind']} lens, next token by depth"
    n_depths = data.sizes["depth"]
    notes = [
        cut_note(len(ids), length),
        context,
        f"{len(drawn)} of {n_depths} depths are drawn." if len(drawn) < n_depths else "",
        edit_note(interventions),
    ]
    body = (
        f'<div class="mcr-title">{escaped(title)}</div>'
        '<p class="mcr-note">Shade: probability of the best token, 0<span class="mcr-legend"></span>1. Green '
        f"frame: the token that came. {escaped(' '.join(note for note in notes if note))}</p>"
        f"{_table(model, data, ids, drawn)}"
    )
    return View(title, body)


def _drawn(depths: Iterable[int] | None, n_layers: int) -> list[int]:
    """The depths to draw, the last on top."""
    spread = np.linspace(0, n_layers, min(n_layers + 1, _MOST_DEPTHS))
    listed = [round(float(depth)) for depth in spread] if depths is None else depths
    return sorted(chosen("depth", listed, n_layers + 1), reverse=True)


def _table(model: Model, data: xr.Dataset, ids: Sequence[int], drawn: list[int]) -> str:
    """Depths by positions; above them the tokens that were read."""
    texts = token_texts(model, ids)
    read = "".join(
        f'<th class="mcr-token" title="{escaped(f"position {i}: {visible(text)}")}">'
        f"<bdi>{escaped(visible(text, _LONGEST_CELL))}</bdi></th>"
        for i, text in enumerate(texts)
    )
    rows = []
    for depth in drawn:
        of_depth = data.sel(depth=depth)
        cells = "".join(_cell(model, of_depth.isel(position=i), texts, ids, i) for i in range(len(ids)))
        rows.append(f'<tr><th class="mcr-depth">{depth}</th>{cells}</tr>')
    return (
        '<div class="mcr-scroll"><table class="mcr-lens"><thead><tr>'
        f'<th class="mcr-depth">depth</th>{read}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _cell(model: Model, found: xr.Dataset, texts: list[str], ids: Sequence[int], position: int) -> str:
    """One prediction: the best token, and the others in the hover."""
    best = [int(token) for token in found.top_token.values]
    if best[0] < 0:  # its logits hold Inf or NaN
        return f'<td class="mcr-token" title="after position {position}: Inf or NaN in the logits">–</td>'
    names = token_texts(model, best)
    chances = found.top_probability.values
    lines = [f"{chance:7.1%}  {visible(name, 24)}" for chance, name in zip(chances, names, strict=True)]
    came = position + 1 < len(ids)
    if came:
        lines.append(
            f"came: {visible(texts[position + 1], 24)}, {float(found.target_probability_by_token):.1%}, "
            f"rank {int(found.target_rank_by_token) + 1}"
        )
    hit = " mcr-hit" if came and best[0] == ids[position + 1] else ""
    shade = f"background:rgba(0,114,178,{0.85 * float(chances[0]):.3f})"
    tip = f"after position {position}, depth {int(found.depth)}\n" + "\n".join(lines)
    return (
        f'<td class="mcr-token{hit}" style="{shade}" title="{escaped(tip)}">'
        f"<bdi>{escaped(visible(names[0], _LONGEST_CELL))}</bdi></td>"
    )
