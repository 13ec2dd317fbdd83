"""What every depth would predict."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr

import mcr_lens.viz._panels as panels
from mcr_lens.errors import InputError
from mcr_lens.results import Profile

__all__ = ["lens_curves"]

_PANELS = {
    "lens_loss": ("loss on the next token", "nats"),
    "lens_entropy": ("entropy of the prediction", "nats"),
    "lens_kl": ("KL(last depth || this depth)", "nats"),
    "target_probability": ("probability of the next token", "0 to 1"),
}

Lens = xr.Dataset | Profile


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

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> prompts = mcr.load_prompts(mcr.prompts.word_problems(2), model)
        >>> data = mcr.logit_lens(model, prompts, progress=False)
        >>> len(lens_curves({"untouched": data}).data)  # four lines, each with the two ends of its band
        12
    """
    named = panels.profiles_by_name(lenses, "lens")
    for name, profile in named.items():
        if not set(_PANELS) & set(profile.data):
            called = f"{name!r}: " if name else ""
            raise InputError(
                f"{called}no lens in this result: it has none of {', '.join(_PANELS)}; see logit_lens, or "
                "profile(..., observers=[LogitLens(model)])"
            )
    relative = len({int(profile.data.depth[-1]) for profile in named.values()}) > 1
    titles = [*_PANELS.values()]
    if perplexity:
        titles[0] = ("perplexity of the next token", "exp(mean loss)")
    figure = panels.four_panels(titles)
    for number, (name, profile) in enumerate(named.items()):
        depth = profile.data.depth.values
        x, at = (depth / depth[-1], "relative depth") if relative else (depth, "depth")
        variables = [variable for variable in _PANELS if variable in profile.data]
        for variable in variables:
            curve = profile.over_prompts(variable)
            if perplexity and variable == "lens_loss":
                with np.errstate(over="ignore"):
                    curve = np.exp(curve)
            style = panels.curve_style(number, name) | {"showlegend": bool(name) and variable == variables[0]}
            panel = panels.place([*_PANELS].index(variable))
            panels.add_curve(figure, x, curve, style, panel, at, len(named))
    if perplexity:
        panels.log_axis(figure, 0)
    panels.shares(figure, 3)
    panels.depth_axis(figure, relative)
    return panels.styled(figure)
