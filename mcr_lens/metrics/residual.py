"""Norms, largest and typical activations of the residual stream at one depth, and what writes it."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcr_lens.metrics.rows import full_lengths, real_rows, rest_rows
from mcr_lens.thresholds import MASSIVE, MASSIVE_RATIO

__all__ = [
    "TopActivation",
    "is_massive",
    "median_activation",
    "median_of_last",
    "norm_ratio",
    "rest_norm",
    "sink_norm",
    "top_activation",
    "top_of_magnitude",
    "write_along",
]


class TopActivation(NamedTuple):
    """The largest absolute activation of a prompt and where it sits."""

    value: Float[Tensor, "batch"]
    position: Int[Tensor, "batch"]
    dimension: Int[Tensor, "batch"]


def sink_norm(residual: Float[Tensor, "batch pos d_model"], sink_position: int = 0) -> Float[Tensor, "batch"]:
    """Euclidean norm of the sink token, ``||x_s||``."""
    return torch.linalg.vector_norm(residual[:, sink_position].double(), dim=-1)


def rest_norm(
    residual: Float[Tensor, "batch pos d_model"],
    lengths: Int[Tensor, "batch"] | None = None,
    sink_position: int = 0,
) -> Float[Tensor, "batch"]:
    """Mean over the real tokens other than the sink of ``||x_i||``; NaN for a prompt of one token."""
    batch, pos, _ = residual.shape
    lengths = full_lengths(batch, pos, lengths, sink_position)
    keep = rest_rows(lengths, pos, 0, sink_position, residual.device)
    norms = torch.linalg.vector_norm(residual.double(), dim=-1)
    return torch.where(keep, norms, 0.0).sum(-1) / keep.sum(-1)


def norm_ratio(
    residual: Float[Tensor, "batch pos d_model"],
    lengths: Int[Tensor, "batch"] | None = None,
    sink_position: int = 0,
) -> Float[Tensor, "batch"]:
    """``sink_norm / rest_norm``: how much larger the sink token is than the others on average.

    Example:
        >>> import torch
        >>> norm_ratio(torch.tensor([[[10.0, 0.0], [0.0, 1.0], [3.0, 0.0]]]))
        tensor([5.], dtype=torch.float64)
    """
    return sink_norm(residual, sink_position) / rest_norm(residual, lengths, sink_position)


def top_activation(
    residual: Float[Tensor, "batch pos d_model"], lengths: Int[Tensor, "batch"] | None = None
) -> TopActivation:
    """``max |X_ij|`` over the real tokens, with its position in the block and its dimension."""
    batch, pos, _ = residual.shape
    keep = real_rows(full_lengths(batch, pos, lengths), pos, 0, residual.device)
    return top_of_magnitude(torch.where(keep[..., None], residual.abs(), -1.0))


def top_of_magnitude(magnitude: Float[Tensor, "batch pos d_model"]) -> TopActivation:
    """The largest entry of each ``|X|``, with its position in the block and its dimension."""
    # Row by row first: a maximum with its index is slow, and only one row needs it.
    of_row = magnitude.amax(-1)
    value, position = of_row.max(-1)
    row = magnitude.take_along_dim(position[:, None, None], dim=1)[:, 0]
    return TopActivation(value.double(), position, row.argmax(-1))


def median_activation(
    residual: Float[Tensor, "batch pos d_model"], lengths: Int[Tensor, "batch"] | None = None
) -> Float[Tensor, "batch"]:
    """Median over the real tokens of each token's median ``|X_ij|`` (NumPy's median)."""
    batch, pos, _ = residual.shape
    lengths = full_lengths(batch, pos, lengths)
    medians = median_of_last(residual.abs())
    return torch.stack(
        [median_of_last(row[:length]) for row, length in zip(medians, lengths.tolist(), strict=True)]
    )


def is_massive(top: Float[Tensor, "*batch"], median: Float[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
    """Whether the largest activation is *massive*: above 100 and 1,000 times the median.

    Source: Sun et al., Massive Activations in Large Language Models (COLM 2024).
    """
    return (top > MASSIVE) & (top > MASSIVE_RATIO * median)


def write_along(
    write: Float[Tensor, "*batch d_model"], state: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch"]:
    """Component of a write along the unit vector of the state it leaves behind; NaN for a zero state.

    The components of everything a state is the sum of add up to the norm of that state.
    """
    state = state.double()
    return (write.double() * state).sum(-1) / torch.linalg.vector_norm(state, dim=-1)


def median_of_last(values: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Median over the last axis, the mean of the two middle values when their number is even."""
    if values.device.type == "cpu":
        return _median_on_the_host(values)
    n = values.shape[-1]
    # One partial selection finds both middle values: the largest of the smaller half and its successor.
    smaller_half = values.topk(n // 2 + 1, dim=-1, largest=False, sorted=False).values
    return smaller_half.topk(1 if n % 2 else 2, dim=-1).values.double().mean(-1)


def _median_on_the_host(values: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """NumPy's selection takes a third of the time of PyTorch's there."""
    half = values.shape[-1] // 2
    exact = values if values.dtype in (torch.float32, torch.float64) else values.float()
    # One element is selected, and its predecessor found: selecting two takes several times as long.
    smaller_half_first = np.partition(exact.numpy(), half, axis=-1)
    middle = [smaller_half_first[..., half]]
    if values.shape[-1] % 2 == 0:
        middle.append(smaller_half_first[..., :half].max(-1))
    return torch.as_tensor(np.mean(middle, axis=0, dtype=np.float64))
