"""Training steps by depth."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mcr_lens.errors import InputError
from mcr_lens.results import Profile
from mcr_lens.viz._panels import has_curve, place, styled

_PANELS = {
    "norm_ratio": "norm of the sink token / mean of the others",
    "normalized_entropy": "normalized entropy (0 to 1)",
    "sink_rate": "sink rate (fraction of heads)",
    "mixing_score": "mixing score (0 to 1)",
}


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
    figure = make_subplots(
        rows=2, cols=2, subplot_titles=[*_PANELS.values()], vertical_spacing=0.13, horizontal_spacing=0.17
    )
    for panel, variable in enumerate(_PANELS):
        if not has_curve(run, variable):
            continue
        cells = run.over_prompts(variable)["mean"].transpose(..., "step")
        powers = variable == "norm_ratio"
        figure.add_heatmap(
            z=np.log10(cells.values) if powers else cells.values,
            customdata=cells.values,
            x=[f"{step:,}" for step in cells.step.values],
            y=cells[cells.dims[0]].values,
            colorscale="Cividis",
            **({} if powers else {"zmin": 0, "zmax": 1}),
            colorbar=_colorbar(panel, powers),
            hovertemplate=f"step %{{x}}, {cells.dims[0]} %{{y}}: %{{customdata:.3g}}<extra></extra>",
            **place(panel),
        )
    figure.update_xaxes(type="category", tickangle=-50, showgrid=False, matches="x")
    figure.update_xaxes(title_text="training step", row=2)
    figure.update_yaxes(showgrid=False)
    figure.update_yaxes(title_text="depth", col=1)
    return styled(figure).update_layout(height=700)


def _colorbar(panel: int, powers: bool) -> dict[str, Any]:
    """Beside its own panel; of logarithms it says what they are logarithms of."""
    bar = {"x": (0.425, 1.01)[panel % 2], "y": (0.79, 0.215)[panel // 2], "len": 0.45, "thickness": 12}
    ticks = np.array([0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000])
    return bar | (
        {"tickvals": np.log10(ticks), "ticktext": [f"{tick:g}" for tick in ticks]} if powers else {}
    )
