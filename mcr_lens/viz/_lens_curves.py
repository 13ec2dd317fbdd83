"""What every depth would predict."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mcr_lens.errors import InputError
from mcr_lens.results import Result
from mcr_lens.viz._panels import Curve, Panel, curves_over_depth, profiles_by_name

_LOSS = Panel("loss on the next token", "nats", [Curve("lens_loss", "")])
_PERPLEXITY = Panel(
    "perplexity of the next token", "exp(mean loss)", [Curve("lens_loss", "", transform=np.exp)], "log"
)
_OTHERS = (
    Panel("entropy of the prediction", "nats", [Curve("lens_entropy", "")]),
    Panel("KL(last depth || this depth)", "nats", [Curve("lens_kl", "")]),
    Panel("probability of the next token", "0 to 1", [Curve("target_probability", "")], "share"),
)

Lens = xr.Dataset | Result


def lens_curves(lenses: Lens | Mapping[str, Lens], *, perplexity: bool = False) -> go.Figure:
    """Loss on the next token, entropy, KL to the last depth and probability of the next token over depth.

    Lines are means over prompts, bands the middle half of the prompts; every prompt counts the same
    (``lens_summary`` counts every token the same). One lens, or several given by name: logit against tuned,
    baseline against ablated. They are drawn over depth where their last depths are the same, else over
    relative depth (0 to 1). Some depths alone: ``lens_curves(data.sel(depth=slice(1, None)))``.

    Args:
        lenses: from ``logit_lens``, or profiles that a lens took part in.
        perplexity: draw exp(loss) on a logarithmic axis in place of the loss. The line is the exponential of
            the mean loss, which is not the mean of the prompts' perplexities.

    Raises:
        InputError: when there is no lens in what is given.
    """
    named = profiles_by_name(lenses, "lens")
    panels = (_PERPLEXITY if perplexity else _LOSS, *_OTHERS)
    variables = [panel.curves[0].variable for panel in panels]
    for name, profile in named.items():
        if not set(variables) & set(profile.data):
            called = f"{name!r}: " if name else ""
            raise InputError(
                f"{called}no lens in this result: it has none of {', '.join(variables)}; see logit_lens, or "
                "profile(..., observers=[LogitLens(model)])"
            )
    with np.errstate(over="ignore"):
        return curves_over_depth(named, panels)
