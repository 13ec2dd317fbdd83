"""Pictures of results: each takes what was measured and computes nothing."""

from mcr_lens.viz.curves import depth_curves

__all__ = ["depth_curves"]
