"""What a head is mostly for: one word from the scores that were measured."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.thresholds import SINK_THRESHOLD

__all__ = ["MIXING_THRESHOLD", "ROLES", "head_roles"]

ROLES = ("sink", "identity", "previous token", "mixing", "other")

# arXiv 2510.06477 speaks of mixing layers where the mixing score is above 0.7.
MIXING_THRESHOLD = 0.7


def head_roles(
    sink_score: Float[Tensor, "*batch head"],
    identity_score: Float[Tensor, "*batch head"],
    previous_token_score: Float[Tensor, "*batch head"],
    mixing_score: Float[Tensor, "*batch head"],
    threshold: float = SINK_THRESHOLD,
    mixing_threshold: float = MIXING_THRESHOLD,
) -> Int[Tensor, "*batch head"]:
    """The role of each head, as an index into ``ROLES``.

    The largest of the sink, identity and previous-token scores, all shares of attention, names the head if
    it is at least ``threshold``. A head without such a target is *mixing* if its mixing score is above
    ``mixing_threshold``, and *other* if not. NaN reaches nothing. The definition is ours: the paper names
    the kinds of heads and gives no rule.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.8, 0.1], [0.1, 0.2], [0.0, 0.1], [0.2, 0.9]])
        >>> [ROLES[role] for role in head_roles(*scores)]
        ['sink', 'mixing']
    """
    targets = torch.stack([sink_score, identity_score, previous_token_score]).double()
    share, largest = targets.nan_to_num(nan=-torch.inf).max(0)
    without = torch.where(mixing_score > mixing_threshold, ROLES.index("mixing"), ROLES.index("other"))
    return torch.where(share >= threshold, largest, without)
