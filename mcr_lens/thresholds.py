"""Conventions that several parts share: from where on something counts."""

__all__ = [
    "MASSIVE",
    "MASSIVE_RATIO",
    "MIN_COMPRESSION",
    "MIN_QUERIES",
    "MIN_REST_ENTROPY",
    "SINK_THRESHOLD",
]

# Share of the other tokens' entropy that the sink must destroy for a depth to count as compressed by it.
MIN_COMPRESSION = 0.1
# Below this entropy of the other tokens, in nats, there is nothing left to destroy.
MIN_REST_ENTROPY = 0.05

# The sink score from which on a head counts as a sink (Gu et al. 2025; arXiv 2510.06477 uses it too).
SINK_THRESHOLD = 0.3

# Fewer later queries say nothing of a position. A head that looks at the token before, or evenly at the few
# before, gives any one position the attention of one row in all: here at most 1/8 of it on average.
MIN_QUERIES = 8

# The largest activation is massive above this size and so many times the median (Sun et al., COLM 2024).
MASSIVE, MASSIVE_RATIO = 100.0, 1000.0
