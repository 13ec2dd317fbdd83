"""The compression phase over thresholds of kappa: how far the answer is from changing."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from mcr_lens.phases import MIN_COMPRESSION, phase_thresholds
from mcr_lens.results import Profile
from mcr_lens.viz._panels import DEPTH, INK, PHASES, profiles_by_name, styled


def phase_strip(profile: Profile) -> go.Figure:
    """Which depths are compressed, for thresholds of kappa from .02 to .5; the line is the convention of .1.

    A row is the phase that ``phases(min_compression=threshold)`` gives. Where rows agree the answer does not
    hang on the threshold.

    Raises:
        InputError: for a profile that is none, several stacked in one, or another estimator than the raw one.
    """
    (measured,) = profiles_by_name({"": profile}, "profile").values()
    strip = phase_thresholds(measured)
    depths = measured.data.depth.values
    cells = np.full((len(strip), len(depths)), np.nan)
    for row, span in enumerate(strip.values()):
        if span:
            cells[row, span[0] : span[1] + 1] = 1
    color = PHASES["compress"]
    look: dict[str, Any] = {"xgap": 1, "ygap": 1, "showscale": False, "colorscale": [[0, color], [1, color]]}
    hover = "threshold %{y:.2f}: depth %{x} is compressed<extra></extra>"
    figure = styled(go.Figure(go.Heatmap(x=depths, y=list(strip), z=cells, hovertemplate=hover, **look)))
    figure.add_hline(y=MIN_COMPRESSION, line={"dash": "dot", "color": INK, "width": 2})
    figure.update_layout(height=300)
    figure.update_yaxes(title_text="threshold of kappa", range=[0, 0.52], showgrid=False)
    return figure.update_xaxes(title_text=DEPTH, range=[-0.5, depths[-1] + 0.5], showgrid=False)
