"""What an activation patching sweep gave: the shares by place, and where they are largest."""

from __future__ import annotations

import pandas as pd

from mcr_lens.results import Result

__all__ = ["PatchingResult"]

_SHOWN = 10


class PatchingResult(Result):
    """A sweep of patches over pairs of prompts: see ``activation_patching`` for what is in ``data``."""

    kind = "activation patching"
    dims = ("prompt", "layer")

    @property
    def share(self) -> str:
        """``"recovered"``, or ``"lost"`` of a noising sweep."""
        return "lost" if "lost" in self else "recovered"

    def table(self) -> pd.DataFrame:
        """The places whose patch does most, of ``summary()``."""
        return self.summary().sort_values(self.share, ascending=False, kind="stable").head(_SHOWN)

    def sentences(self) -> list[str]:
        """Where the patch does most."""
        mean = self[self.share].mean("prompt")
        places = mean.stack(place=mean.dims).dropna("place")
        if not places.size:
            return []
        most = places[int(places.values.argmax())]
        where = ", ".join(f"{dim} {most[dim].item()}" for dim in mean.dims)
        return [f"The patch that does most ({self.share} {most.item():.2f}) is at {where}."]
