"""Pictures of results: each takes what was measured and computes nothing."""

from mcr_lens.viz.curves import depth_curves
from mcr_lens.viz.doses import dose_response
from mcr_lens.viz.lenses import lens_curves
from mcr_lens.viz.maps import patching_map
from mcr_lens.viz.tasks import task_depth
from mcr_lens.viz.training import training

__all__ = ["depth_curves", "dose_response", "lens_curves", "patching_map", "task_depth", "training"]
