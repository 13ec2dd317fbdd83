"""How far apart two tensors are that should be equal, and how far they may be."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["logit_error", "relative_error", "tolerance_of"]


def tolerance_of(tensor: Tensor) -> float:
    """The largest relative error that rounding in this dtype explains."""
    return 1e-4 if tensor.dtype in (torch.float32, torch.float64) else 0.05


def relative_error(actual: Tensor, expected: Tensor) -> Tensor:
    """``||actual - expected|| / ||expected||`` in float32, on the host; 0 where both are all zeros."""
    actual, expected = actual.float(), expected.float()
    size = expected.norm().clamp(min=torch.finfo(torch.float32).tiny)
    return ((actual - expected).norm() / size).cpu()


def logit_error(actual: Float[Tensor, "*batch vocab"], expected: Float[Tensor, "*batch vocab"]) -> float:
    """``||actual - expected|| / ||expected||`` over all logits, in float32.

    In float16 both ways may overflow, and then agree: Inf counts as the end of the dtype, and what is NaN in
    both is left out. NaN where nothing is left, and where one of them alone is NaN.

    Example:
        >>> logit_error(torch.tensor([3.0, torch.nan]), torch.tensor([4.0, torch.nan]))
        0.25
    """
    actual = actual.to(expected.device)
    numbers = ~(actual.isnan() & expected.isnan())
    ends = [torch.finfo(logits.dtype).max for logits in (actual, expected)]
    first, second = (
        logits[numbers].float().nan_to_num(nan=torch.nan, posinf=end, neginf=-end)
        for logits, end in zip((actual, expected), ends, strict=True)
    )
    return float((first - second).norm() / second.norm())
