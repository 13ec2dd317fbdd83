"""How far two ways to the same logits are from each other."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["logit_error"]


def logit_error(found: Float[Tensor, "*batch vocab"], expected: Float[Tensor, "*batch vocab"]) -> float:
    """``||found - expected|| / ||expected||`` over all logits, in float32.

    In float16 both ways may overflow, and then agree: Inf counts as the end of the dtype, and what is NaN in
    both is left out. NaN where nothing is left, and where one of them alone is NaN.

    Example:
        >>> logit_error(torch.tensor([3.0, torch.nan]), torch.tensor([4.0, torch.nan]))
        0.25
    """
    found = found.to(expected.device)
    known = ~(found.isnan() & expected.isnan())
    ends = [torch.finfo(logits.dtype).max for logits in (found, expected)]
    first, second = (
        logits[known].float().nan_to_num(nan=torch.nan, posinf=end, neginf=-end)
        for logits, end in zip((found, expected), ends, strict=True)
    )
    return float((first - second).norm() / second.norm())
