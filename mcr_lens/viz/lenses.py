"""What every depth would predict (plotly). Every number comes from a lens; nothing is measured here."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mcr_lens.errors import InputError
from mcr_lens.results import Profile
from mcr_lens.viz.bands import add_band
from mcr_lens.viz.panels import four_panels, log_axis, place
from mcr_lens.viz.style import COLORS, styled

__all__ = ["lens_curves"]

_PANELS = (
    ("lens_loss", "loss on the next token", "nats"),
    ("lens_entropy", "entropy of the prediction", "nats"),
    ("lens_kl", "KL(last depth || this depth)", "nats"),
    ("target_probability", "probability of the next token", "0 to 1"),
)
_DASHES = ("solid", "dash", "dot", "dashdot")

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
        >>> prompts = mcr.load_prompts(mcr.word_problems(2), model)
        >>> data = mcr.logit_lens(model, prompts, progress=False)
        >>> len(lens_curves({"untouched": data}).data)  # four lines, each with the two ends of its band
        12
    """
    # A Dataset is a Mapping too.
    single = isinstance(lenses, (xr.Dataset, Profile))
    named: dict[str, Lens] = {"": lenses} if single else dict(lenses)  # type: ignore[arg-type, dict-item]
    profiles = {name: _checked(name, lens) for name, lens in named.items()}
    if not profiles:
        raise InputError("no lens to draw: give what logit_lens returned, or a mapping of name to it")
    ends = {int(profile.data.depth[-1]) for profile in profiles.values()}
    relative = len(ends) > 1
    titles = [(quantity, unit) for _, quantity, unit in _PANELS]
    if perplexity:
        titles[0] = ("perplexity of the next token", "exp(mean loss)")
    figure = four_panels(titles)
    for number, (name, profile) in enumerate(profiles.items()):
        _add_lens(figure, profile, _style(number, name), perplexity, relative)
    if perplexity:
        log_axis(figure, 0)
    figure.update_yaxes(range=[-0.02, 1.02], **place(3))
    if relative:
        figure.update_xaxes(range=[-0.03, 1.03])
    axis = "relative depth" if relative else "depth (0 = embeddings)"
    figure.update_xaxes(title_text=axis, row=2)
    return styled(figure)


def _checked(name: str, lens: Any) -> Profile:
    """As a profile, which knows means and quantiles over prompts."""
    called = f"{name!r}: " if name else ""
    if not isinstance(lens, (xr.Dataset, Profile)):
        raise InputError(f"{called}a {type(lens).__name__} is no lens: give what logit_lens returned")
    profile = lens if isinstance(lens, Profile) else Profile(lens)
    wanted = [variable for variable, *_ in _PANELS]
    if not any(variable in profile.data for variable in wanted):
        raise InputError(
            f"{called}no lens in this result: it has none of {', '.join(wanted)}; see logit_lens, or "
            "profile(..., observers=[LogitLens(model)])"
        )
    return profile


def _style(number: int, name: str) -> dict[str, Any]:
    dash = _DASHES[number // len(COLORS) % len(_DASHES)]
    return {"name": name, "line": {"color": COLORS[number % len(COLORS)], "dash": dash, "width": 2}}


def _add_lens(
    figure: go.Figure, profile: Profile, style: dict[str, Any], perplexity: bool, relative: bool
) -> None:
    """The curves of one lens, one a panel; it stands in the legend once."""
    depth = profile.data.depth.values
    x = depth / depth[-1] if relative else depth
    shown = False
    for panel, (variable, *_) in enumerate(_PANELS):
        if variable not in profile.data:
            continue
        found = profile.over_prompts(variable)
        curve = {part: found[part].values for part in ("mean", "low", "high")}
        if perplexity and variable == "lens_loss":
            with np.errstate(over="ignore"):
                curve = {part: np.exp(values) for part, values in curve.items()}
        legend = {"showlegend": bool(style["name"]) and not shown}
        add_band(figure, x, curve, style | legend, place(panel), at="relative depth" if relative else "depth")
        shown = True
