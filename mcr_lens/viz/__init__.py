"""Pictures of results: each takes what was measured and computes nothing."""

from mcr_lens.viz.bound_curves import bounds
from mcr_lens.viz.curves import depth_curves
from mcr_lens.viz.doses import dose_response
from mcr_lens.viz.head_maps import head_map
from mcr_lens.viz.inline import View
from mcr_lens.viz.lenses import lens_curves
from mcr_lens.viz.maps import patching_map
from mcr_lens.viz.report_page import report
from mcr_lens.viz.sink_strips import sink_tokens
from mcr_lens.viz.sinks import attention_sinks
from mcr_lens.viz.tasks import task_depth
from mcr_lens.viz.token_predictions import lens_tokens
from mcr_lens.viz.training_maps import training

__all__ = [
    "View",
    "attention_sinks",
    "bounds",
    "depth_curves",
    "dose_response",
    "head_map",
    "lens_curves",
    "lens_tokens",
    "patching_map",
    "report",
    "sink_tokens",
    "task_depth",
    "training",
]
