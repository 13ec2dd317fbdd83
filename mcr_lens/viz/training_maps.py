"""Training steps by depth (plotly). Every number comes from the profiles; nothing is measured here."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mcr_lens.errors import InputError
from mcr_lens.results import Profile
from mcr_lens.viz.style import styled

__all__ = ["training"]

# Variable, title with unit, whether its colours follow powers of ten, and the range of the others.
_PANELS = (
    ("norm_ratio", "norm of the sink token / mean of the others", True, None),
    ("normalized_entropy", "normalized entropy (0 to 1)", False, (0, 1)),
    ("sink_rate", "sink rate (fraction of heads)", False, (0, 1)),
    ("mixing_score", "mixing score (0 to 1)", False, (0, 1)),
)


def training(run: Profile) -> go.Figure:
    """Norm ratio, normalized entropy, sink rate and mixing score by training step and depth.

    Cells are means over prompts. The steps stand side by side, whatever lies between them; what belongs
    to a layer stands at the depth that the layer reads.

    Args:
        run: from ``profile_training``, or any profile concatenated along ``"step"``.

    Raises:
        InputError: for a profile without steps.
    """
    if "step" not in run.data.dims:
        raise InputError("this profile has no steps: use profile_training, or Profile.concat(..., 'step')")
    titles = [title for _, title, _, _ in _PANELS]
    figure = make_subplots(
        rows=2, cols=2, subplot_titles=titles, vertical_spacing=0.13, horizontal_spacing=0.17
    )
    for number, (variable, _, powers, span) in enumerate(_PANELS):
        if variable not in run.data and not (variable == "sink_rate" and "sink_score" in run.data):
            continue
        shown = run.over_prompts(variable)["mean"].transpose(..., "step")
        row, col = number // 2 + 1, number % 2 + 1
        figure.add_heatmap(
            z=np.log10(shown.values) if powers else shown.values,
            customdata=shown.values,
            x=[f"{step:,}" for step in shown.step.values],
            y=shown[shown.dims[0]].values,
            colorscale="Cividis",
            zmin=span[0] if span else None,
            zmax=span[1] if span else None,
            colorbar=_colorbar(row, col, powers),
            hovertemplate=f"step %{{x}}, {shown.dims[0]} %{{y}}: %{{customdata:.3g}}<extra></extra>",
            row=row,
            col=col,
        )
    figure.update_xaxes(type="category", tickangle=-50, showgrid=False)
    figure.update_xaxes(title_text="training step", row=2)
    figure.update_yaxes(showgrid=False)
    figure.update_yaxes(title_text="depth", col=1)
    return styled(figure).update_layout(height=700)


def _colorbar(row: int, col: int, powers: bool) -> dict[str, object]:
    """Beside its own panel; of logarithms it says what they are logarithms of."""
    place = {"x": (0.425, 1.01)[col - 1], "y": (0.79, 0.215)[row - 1], "len": 0.45, "thickness": 12}
    if not powers:
        return place
    ticks = np.array([0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000])
    return place | {"tickvals": np.log10(ticks), "ticktext": [f"{tick:g}" for tick in ticks]}
