"""Hypothesis strategies: residual streams, ordinary and adversarial, and attention patterns."""

import numpy as np
from hypothesis import strategies as st

__all__ = ["inverse", "patterns", "residual_streams"]


def inverse(dominance: float) -> float:
    """The tail over the leading direction. Rounding moves a tail of 1e-16 against nothing, so a
    dominance near infinity is compared by its inverse."""
    with np.errstate(divide="ignore"):
        return float(np.float64(1.0) / np.float64(dominance))


@st.composite
def residual_streams(draw: st.DrawFn, max_tokens: int = 24, max_width: int = 16) -> tuple[np.ndarray, int]:
    """A matrix of tokens x d_model in float64, made awkward in one of many ways, and a sink position."""
    tokens = draw(st.integers(2, max_tokens))
    width = draw(st.integers(1, max_width))
    sink = draw(st.integers(0, tokens - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((tokens, width)) * 10.0 ** draw(st.integers(-6, 6))
    kind = draw(
        st.sampled_from(
            [
                *("plain", "huge sink", "tiny sink", "zero sink", "zero rows"),
                *("equal rows", "rank one", "aligned", "huge other", "orthogonal"),
            ]
        )
    )
    if kind == "huge sink":
        x[sink] *= 10.0 ** draw(st.integers(1, 8))
    elif kind == "tiny sink":
        x[sink] *= 10.0 ** -draw(st.integers(1, 8))
    elif kind == "zero rows":
        x[rng.random(tokens) < 0.5] = 0.0
        x[sink] = rng.standard_normal(width)
    elif kind == "equal rows":
        x[:] = x[sink]
    elif kind == "rank one":
        x = np.outer(rng.standard_normal(tokens), rng.standard_normal(width))
    elif kind == "aligned":
        x = rng.standard_normal((tokens, 1)) * x[sink] + 1e-9 * x
    elif kind == "huge other":
        x[(sink + 1) % tokens] *= 1e6
    elif kind == "zero sink":
        x[sink] = 0.0
    elif kind == "orthogonal":
        square = np.linalg.qr(rng.standard_normal((max(tokens, width),) * 2))[0]
        x = square[:tokens, :width]
    return x, sink


@st.composite
def patterns(draw: st.DrawFn, max_tokens: int = 12) -> tuple[np.ndarray, int, int | None]:
    """Causal patterns of a few heads in float32, a sink position, and a window or none."""
    tokens = draw(st.integers(2, max_tokens))
    heads = draw(st.integers(1, 3))
    sink = draw(st.integers(0, tokens - 1))
    window = draw(st.one_of(st.none(), st.integers(2, tokens)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.standard_normal((heads, tokens, tokens)) * 10.0 ** draw(st.integers(-2, 2))
    query, key = np.indices((tokens, tokens))
    seen = (key <= query) & (query - key < (window or tokens))
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mass = rng.uniform(0.2, 1.0) if draw(st.booleans()) else 1.0
    return (mass * weights / weights.sum(-1, keepdims=True)).astype(np.float32), sink, window
