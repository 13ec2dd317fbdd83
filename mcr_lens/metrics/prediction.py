"""Next-token distributions: how far one is from another, how sure it is, where it puts the token that came.

All take logits or log-probabilities ``[*batch, vocab]`` and give one number a row, in nats where it is a
number of nats. A probability of exactly 0 adds nothing; what has NaN in it is NaN.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["all_finite", "distribution_entropy", "kl_divergence", "log_distribution", "target_rank"]


def all_finite(logits: Float[Tensor, "*batch vocab"]) -> Bool[Tensor, "*batch"]:
    """Whether a row holds neither Inf nor NaN: else it is no distribution, even where a number comes out.

    Example:
        >>> all_finite(torch.tensor([[0.0, 1.0], [-torch.inf, 1.0], [torch.nan, 1.0]]))
        tensor([ True, False, False])
    """
    # Least and largest are NaN where one is, and are found without a tensor as large as the logits.
    least, largest = logits.aminmax(dim=-1)
    return least.isfinite() & largest.isfinite()


def log_distribution(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    """Log-probabilities of logits, in float32 or better.

    Example:
        >>> log_distribution(torch.zeros(2)).exp()
        tensor([0.5000, 0.5000])
    """
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def distribution_entropy(log_p: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch"]:
    """``-sum_v p_v ln p_v``, between 0 and ``ln vocab``.

    Example:
        >>> distribution_entropy(log_distribution(torch.zeros(4))).exp()
        tensor(4.)
    """
    # A finite stand-in for -inf: 0 * -inf would be NaN.
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)


def kl_divergence(
    log_p: Float[Tensor, "*batch vocab"], log_q: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """``KL(p || q) = sum_v p_v (ln p_v - ln q_v)``; infinite where q rules out what p does not.

    Example:
        >>> kl_divergence(torch.tensor([0.0, -torch.inf]), log_distribution(torch.zeros(2))).exp()
        tensor(2.)
    """
    p = log_p.exp()
    # In place: these are the largest tensors of a lens.
    return (log_p - log_q).masked_fill_(p == 0, 0.0).mul_(p).sum(-1)


def target_rank(
    logits: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """How many tokens have strictly larger logits than the target: 0 when it is the top one.

    NaN for a row with Inf or NaN: what overflowed has lost its place.

    Example:
        >>> target_rank(torch.tensor([[0.1, 0.7, 0.1, 0.2]]), torch.tensor([0]))
        tensor([2.])
    """
    own = logits.gather(-1, targets[..., None])
    rank = (logits > own).sum(-1).to(torch.promote_types(logits.dtype, torch.float32))
    return rank.masked_fill(~all_finite(logits), torch.nan)
