"""What a lens over a set of prompts gave, and its curve over depth; no torch in here."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from mcr_lens.errors import InputError
from mcr_lens.not_finite import not_finite_note
from mcr_lens.results import Result, describe
from mcr_lens.results.tables import count

__all__ = ["LensResult", "lens_summary"]

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
            f"{lens.capitalize()} lens of {self.model_name}, {count(sizes['prompt'], 'prompt')}, "
            f"{count(sizes['depth'] - 1, 'layer')}"
        )

    def summary(self) -> pd.DataFrame:
        """Means over all tokens of the corpus, a row a depth; see ``lens_summary``."""
        return lens_summary(self.data)

    def sentences(self) -> list[str]:
        """Where the loss on the next token falls most."""
        return [f"Depth by depth, {each}" for each in describe.lens(self.summary())]


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
        values = data[next(name for name in ("lens_entropy", *present) if name in data)]
        table["prompts"] = values.notnull().sum("prompt").to_series()
        table.attrs["not_finite"] = note
    return table
