"""A lens over a set of prompts: one dataset, with how it was made, and its curve over depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from mcr_lens.engine import measure
from mcr_lens.errors import InputError
from mcr_lens.hooks.interventions import described
from mcr_lens.hooks.lenses.logit import LogitLens
from mcr_lens.hooks.lenses.translators import Translators
from mcr_lens.hooks.lenses.tuned import TunedLens
from mcr_lens.models import Hook, Model
from mcr_lens.not_finite import not_finite_note
from mcr_lens.prompts import PromptsLike
from mcr_lens.results import Result, describe

__all__ = ["LensResult", "lens_summary", "logit_lens"]

# Column of the summary, and tokens of a prompt that its variable does not count.
_COLUMNS = {
    "lens_loss": ("loss", 1),
    "lens_entropy": ("entropy", 0),
    "lens_kl": ("kl_to_final", 0),
    "target_rank": ("target_rank", 1),
    "target_probability": ("target_probability", 1),
}


class LensResult(Result):
    """A lens over a set of prompts: see ``logit_lens`` for what is in ``data``."""

    kind = "lens"
    dims = ("depth", "prompt")

    @property
    def headline(self) -> str:
        """Which lens of which model, in one line."""
        sizes, lens = self.data.sizes, self.data.attrs.get("lens", {}).get("kind", "a")
        return (
            f"{lens.capitalize()} lens of {self.model_name}, {sizes['prompt']} prompts, "
            f"{sizes['depth'] - 1} layers"
        )

    def summary(self) -> pd.DataFrame:
        """Means over all tokens of the corpus, a row a depth; see ``lens_summary``."""
        return lens_summary(self.data)

    def sentences(self) -> list[str]:
        """Where the loss on the next token falls most."""
        return [f"Depth by depth, {each}" for each in describe.lens(self.summary())]

    def caveats(self) -> list[str]:
        """Which prompts are left out, if any."""
        note = not_finite_note(self.data, self.data.attrs.get("dtype"))
        return [note] if note else []


def logit_lens(
    model: Model,
    prompts: PromptsLike,
    interventions: Sequence[Hook] = (),
    *,
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
    data = measure(
        model, prompts, [lens], interventions, batch_size=batch_size, chunk=chunk, progress=progress
    )
    with np.errstate(over="ignore"):  # a very bad prediction is infinitely perplexed
        data["lens_perplexity"] = np.exp(data.lens_loss)
    data.attrs |= {
        "lens": {
            "kind": "logit" if translators is None else "tuned",
            "translators": None if translators is None else dict(translators.record),
        },
        "interventions": described(interventions),
    }
    return LensResult(data)


def lens_summary(data: xr.Dataset) -> pd.DataFrame:
    """The lens over the whole corpus, a row a depth: every token counts the same.

    ``loss`` (nats), ``target_rank`` and ``target_probability`` are means over all tokens that have a next
    one, ``perplexity`` = exp(``loss``), ``entropy`` and ``kl_to_final`` (nats) means over all tokens. So
    long prompts weigh more here than in ``data.lens_loss.mean("prompt")``. What the data lack is left out,
    and so are prompts where a value is NaN. Where a prompt's states or logits hold Inf or NaN, one more
    column, ``prompts``, says how many are left at a depth, and ``attrs["not_finite"]`` which is the first to
    break; ``kl_to_final`` leaves out those that are broken at the last depth, too.

    Args:
        data: from ``logit_lens``, or ``profile.data`` of a profile that a lens took part in.

    Raises:
        InputError: when there is nothing of a lens in it.
    """
    present = [name for name in _COLUMNS if name in data]
    if not present:
        raise InputError(f"no lens in this dataset: it has none of {', '.join(_COLUMNS)}; see logit_lens")
    table = pd.DataFrame(index=pd.Index(data.depth.values, name="depth"))
    for name in present:
        column, without = _COLUMNS[name]
        table[column] = data[name].weighted(data.n_tokens - without).mean("prompt").to_series()
        if column == "loss":
            with np.errstate(over="ignore"):
                table["perplexity"] = np.exp(table[column])
    if note := not_finite_note(data, data.attrs.get("dtype")):
        known = data[next(name for name in ("lens_entropy", *present) if name in data)]
        table["prompts"] = known.notnull().sum("prompt").to_series()
        table.attrs["not_finite"] = note
    return table
