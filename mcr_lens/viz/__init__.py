"""Pictures of results: each takes what was measured and computes nothing."""

from mcr_lens.viz.curves import depth_curves
from mcr_lens.viz.doses import dose_response
from mcr_lens.viz.maps import patching_map

__all__ = ["depth_curves", "dose_response", "patching_map"]
