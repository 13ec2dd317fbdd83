"""An independent float64 NumPy reference for every measured quantity.

Written from the definitions alone, with plain loops and direct formulas, and never importing the
package it checks. Undefined quantities (a mean over nothing, 0 / 0) are NaN; x / 0 is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def quotient(numerator: float, denominator: float) -> float:
    """Divide with 0 / 0 = NaN and x / 0 = infinity."""
    if denominator == 0:
        return math.nan if numerator == 0 or math.isnan(numerator) else math.inf
    return float(numerator / denominator)


def mean(values: Iterable[float]) -> float:
    """Mean of a list; NaN when it is empty."""
    collected = list(values)
    return float(np.mean(collected)) if collected else math.nan


def entropy(probabilities: Array, alpha: float = 1.0) -> float:
    """Renyi entropy of order alpha in nats (Shannon for 1, -ln max for infinity)."""
    positive = probabilities[probabilities > 0]
    if positive.size == 0:
        return math.nan
    if alpha == 1.0:
        return float(-np.sum(positive * np.log(positive))) + 0.0
    if math.isinf(alpha):
        return float(-np.log(positive.max())) + 0.0
    return float(np.log(np.sum(positive**alpha)) / (1.0 - alpha)) + 0.0


def unit_rows_of(states: Array) -> Array:
    """Divide every row by its norm; a row of zeros stays a row of zeros."""
    norms = np.linalg.norm(states, axis=1, keepdims=True)
    return states / np.where(norms == 0, 1.0, norms)


def spectrum(states: Array, center: bool = False, unit_rows: bool = False) -> Array:
    """Squared singular values divided by their sum, largest first; empty when X is zero."""
    matrix = np.asarray(states, dtype=np.float64)
    if matrix.shape[0] == 0:
        return np.zeros(0)
    if center:
        matrix = matrix - matrix.mean(axis=0, keepdims=True)
    if unit_rows:
        matrix = unit_rows_of(matrix)
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    return squares / squares.sum() if squares.sum() > 0 else np.zeros(0)


def layer_by_layer_spectrum(states: Array) -> Array:
    """Centre, unit rows, smaller Gram clamped at 0 elementwise, its positive eigenvalues."""
    matrix = np.asarray(states, dtype=np.float64)
    if matrix.shape[0] == 0:
        return np.zeros(0)
    matrix = unit_rows_of(matrix - matrix.mean(axis=0, keepdims=True))
    tokens, width = matrix.shape
    gram = matrix.T @ matrix if tokens > width else matrix @ matrix.T
    eigenvalues = np.linalg.eigvalsh(np.maximum(gram, 0.0))
    positive = eigenvalues[eigenvalues > 0][::-1]
    return positive / positive.sum() if positive.size else np.zeros(0)


def entropies(
    states: Array,
    *,
    center: bool = False,
    unit_rows: bool = False,
    alpha: float = 1.0,
    preset: str = "raw",
) -> tuple[float, float]:
    """(matrix entropy, the same over ln min(T, d)) under an estimator."""
    if preset == "layer-by-layer":
        probabilities = layer_by_layer_spectrum(states)
    else:
        probabilities = spectrum(states, center, unit_rows)
    value = entropy(probabilities, alpha)
    smaller = min(states.shape)
    return value, (value / math.log(smaller) if smaller > 1 else math.nan)


def estimator_oracle(X: Array, **estimator: Any) -> dict[str, float]:
    """The entropies of X [T, d] alone, under `center`, `unit_rows`, `alpha` or `preset`."""
    value, normalized = entropies(np.asarray(X, dtype=np.float64), **estimator)
    return {"matrix_entropy": value, "normalized_entropy": normalized}


def members(s: int | tuple[int, ...]) -> tuple[int, ...]:
    """The sinks, the primary first."""
    return s if isinstance(s, tuple) else (s,)


def residual_oracle(
    X: Array,
    s: int | tuple[int, ...] = 0,
    *,
    center: bool = False,
    unit_rows: bool = False,
    alpha: float = 1.0,
    preset: str = "raw",
) -> dict[str, float]:
    """Every (prompt, depth) variable, the bounds included. X: [T, d] real tokens; s: sink positions.

    Of several sinks the first is the primary one.
    The estimator options touch the entropies; anisotropy and dominance stay on the raw X.
    """
    states = np.asarray(X, dtype=np.float64)
    sinks = members(s)
    s = sinks[0]
    norms = [float(np.linalg.norm(row)) for row in states]
    rest = mean(norm for position, norm in enumerate(norms) if position != s)
    estimator: dict[str, Any] = {
        "center": center, "unit_rows": unit_rows, "alpha": alpha, "preset": preset
    }  # fmt: skip
    whole, whole_normalized = entropies(states, **estimator)
    without, without_normalized = entropies(np.delete(states, sinks, axis=0), **estimator)
    probabilities = spectrum(states)
    others = np.delete(states, sinks, axis=0)
    rest_probabilities = spectrum(others)
    rest_masses = {i: float(row @ row) for i, row in enumerate(states) if i not in sinks and row @ row > 0}
    largest = max(rest_masses, key=rest_masses.__getitem__, default=-1)
    magnitude = np.abs(states)
    position, dimension = np.unravel_index(int(magnitude.argmax()), magnitude.shape)
    first = float(probabilities[0]) if probabilities.size else math.nan
    return {
        "sink_norm": norms[s],
        "rest_norm": rest,
        "norm_ratio": quotient(norms[s], rest),
        "matrix_entropy": whole,
        "normalized_entropy": whole_normalized,
        "entropy_without_sink": without,
        "normalized_entropy_without_sink": without_normalized,
        "anisotropy": first,
        "anisotropy_without_sink": float(rest_probabilities[0]) if rest_probabilities.size else math.nan,
        "largest_rest_share": quotient(rest_masses.get(largest, 0.0), float(np.sum(others**2))),
        "largest_rest_position": float(largest),
        "sink_mass_ratio": quotient(sum(norms[i] ** 2 for i in sinks), float(np.sum(others**2))),
        "dominance": quotient(first, float(probabilities[1:].sum())),
        "top_activation": float(magnitude.max()),
        "top_activation_position": float(position),
        "top_activation_dimension": float(dimension),
        "median_activation": float(np.median([np.median(row) for row in magnitude])),
        **bounds_oracle(states, s),
    }


def bounds_oracle(X: Array, s: int = 0) -> dict[str, float]:
    """The theorem's quantities. X: [T, d] real tokens; s: sink position.

    With x_s = 0 nothing is known beyond the rank: anisotropy and dominance bounds are 0, the
    entropy bound is ln r; when all of X is 0 the first two are NaN. With R = 0 the matrix has rank
    one: bounds 1, infinity and 0.
    """
    states = np.asarray(X, dtype=np.float64)
    sink, others = states[s], np.delete(states, s, axis=0)
    mass, rest = float(sink @ sink), float(np.sum(others**2))
    direction = sink / math.sqrt(mass) if mass > 0 else sink
    residuals = [row - (row @ direction) * direction for row in others]
    outside = float(sum(row @ row for row in residuals))
    aligned = float(sum((row @ direction) ** 2 for row in others))
    rank = min(states.shape)
    return {
        "norm_mass_ratio": quotient(mass, rest),
        "alignment": quotient(aligned, rest) if mass > 0 else math.nan,
        "anisotropy_bound": quotient(mass + aligned, mass + rest),
        "dominance_bound": quotient(mass + aligned, outside),
        "entropy_bound": entropy_bound(mass, rest, outside, rank),
    }


def entropy_bound(mass: float, rest: float, outside: float, rank: int) -> float:
    """-p ln p - (1 - p) ln (1 - p) + (1 - p) ln (r - 1), with 1 - p = E / (M + R)."""
    if mass == 0:
        return math.log(rank)
    remainder = outside / (mass + rest)
    share = 1.0 - remainder
    bound = entropy(np.array([share, remainder]))
    return bound + (remainder * math.log(rank - 1) if remainder > 0 and rank > 1 else 0.0)


def head_oracle(pattern: Array, s: int | tuple[int, ...] = 0, window: int | None = None) -> dict[str, float]:
    """Every (prompt, layer, head) variable but sink_value_ratio. pattern: [T, T], one head."""
    tokens, sinks = pattern.shape[0], members(s)
    real = [q for q in range(tokens) if pattern[q].sum() > 0]
    seeing = [
        q for q in real if q not in sinks and any(q > k and (window is None or q - k < window) for k in sinks)
    ]
    columns = np.array([pattern[real, k].sum() / tokens for k in range(tokens)])
    total = columns.sum()
    spread = entropy(columns / total) / math.log(tokens) if total > 0 and tokens > 1 else math.nan
    mixing = []
    for q in (q for q in real if q >= 1):
        keys = q + 1 if window is None else min(q + 1, window)
        if keys > 1:
            mixing.append(entropy(pattern[q] / pattern[q].sum()) / math.log(keys))
    return {
        "sink_score": float(sum(pattern[q, k] for q in real for k in sinks) / tokens),
        "sink_attention": mean(float(sum(pattern[q, k] for k in sinks)) for q in seeing),
        "visible_queries": float(len(seeing)),
        "col_sum_max": float(columns.max()),
        "col_sum_argmax": float(columns.argmax()),
        "col_sum_concentration": 1.0 - spread,
        "mixing_score": mean(mixing),
        "mixing_entropy": mean(entropy(pattern[q] / pattern[q].sum()) for q in real),
        "identity_score": mean(float(pattern[q, q]) for q in real if q >= 1 and q not in sinks),
        "previous_token_score": mean(
            float(pattern[q, q - 1]) for q in real if q >= 1 and not {q, q - 1} & {*sinks}
        ),
        "learned_sink_mass": mean(1.0 - float(pattern[q].sum()) for q in real),
    }


def later_attention_oracle(pattern: Array, window: int | None = None, least: int = 8) -> list[float]:
    """Of one head [T, T], for each key: mean over the later queries that may see it; NaN under `least`."""
    tokens, found = len(pattern), []
    for k in range(tokens):
        last = tokens if window is None else min(tokens, k + window)
        seeing = [float(pattern[q, k]) for q in range(k + 1, last) if pattern[q].sum() > 0]
        found.append(mean(seeing) if len(seeing) >= least else math.nan)
    return found


def top_columns_oracle(A: Array, window: int | None = None, n: int = 4) -> dict[str, Array]:
    """The n positions that some head attends to most: top_column_position [n], _attention [n, H]."""
    heads = np.array([later_attention_oracle(np.asarray(head, dtype=np.float64), window) for head in A])
    strength = [max((x for x in column if not math.isnan(x)), default=0.0) for column in heads.T]
    named = [k for k in range(len(strength)) if strength[k] > 0]
    order = sorted(named, key=lambda k: -strength[k])[:n]
    missing = n - len(order)
    return {
        "top_column_position": np.array(order + [-1] * missing),
        "top_column_attention": np.vstack([heads.T[order], np.full((missing, len(A)), math.nan)]),
    }


def attention_oracle(A: Array, s: int | tuple[int, ...] = 0, window: int | None = None) -> dict[str, Array]:
    """`head_oracle` for every head. A: [H, T, T] -> each variable [H]; visible_queries is [].

    And `top_columns_oracle` of the layer.
    """
    heads = [head_oracle(np.asarray(head, dtype=np.float64), s, window) for head in A]
    result = {name: np.array([head[name] for head in heads]) for name in heads[0]}
    result["visible_queries"] = result["visible_queries"][0]
    return result | top_columns_oracle(A, window)


def value_oracle(values: Array, n_heads: int, s: int = 0) -> Array:
    """sink_value_ratio [H] of values [T, H_kv, d_head]; grouped heads repeated to query heads."""
    norms = np.linalg.norm(np.asarray(values, dtype=np.float64), axis=-1)
    norms = np.repeat(norms, n_heads // norms.shape[1], axis=1)
    return np.array([quotient(float(head[s]), float(head.mean())) for head in norms.T])


def write_oracle(write: Array, state: Array) -> tuple[float, float]:
    """(norm of a write [d], its component along the unit vector of the state [d] left behind)."""
    return float(np.linalg.norm(write)), quotient(float(write @ state), float(np.linalg.norm(state)))
