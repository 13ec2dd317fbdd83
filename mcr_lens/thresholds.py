"""Conventions that several parts share: from where on something counts."""

__all__ = ["SINK_THRESHOLD"]

# The sink score above which a head counts as a sink (Gu et al. 2025; arXiv 2510.06477 uses it too).
SINK_THRESHOLD = 0.3
