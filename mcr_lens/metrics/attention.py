"""What the heads of a layer do: sinks, mixing, identity and previous-token heads.

Every function takes attention patterns ``(batch, head, query, key)``, right-padded, with the real
``lengths`` of the prompts, and returns one number a prompt and head. ``A`` is one head's pattern, ``s``
the sink position, ``T`` the number of real tokens. ColSumRate and Sink-Versus-Identity are named in
arXiv 2510.06477 without a formula: the definitions here are ours. Three of its authors write ColSum
Concentration and a Mixing Score down in arXiv 2604.11791: these are ``col_sum_concentration`` and
``mixing_entropy``; ``mixing_score`` is ours.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.metrics.attention_state import AttentionState, TopColumns
from mcr_lens.metrics.rows import SinkPositions, full_lengths
from mcr_lens.metrics.value_state import ValueState
from mcr_lens.thresholds import SINK_THRESHOLD

__all__ = [
    "col_sum_argmax",
    "col_sum_concentration",
    "col_sum_max",
    "col_sum_rate",
    "identity_score",
    "later_attention",
    "learned_sink_mass",
    "mixing_entropy",
    "mixing_score",
    "previous_token_score",
    "sink_attention",
    "sink_rate",
    "sink_score",
    "sink_value_ratio",
    "sink_versus_identity",
    "top_columns",
    "visible_queries",
]

Patterns = Float[Tensor, "batch head query key"]
Lengths = Int[Tensor, "batch"]
PerHead = Float[Tensor, "batch head"]


def sink_score(
    pattern: Patterns, lengths: Lengths | None = None, sink_position: SinkPositions = 0
) -> PerHead:
    """``(1/T) sum_q A_qs``, the sink's own row included (Gu et al., ICLR 2025); of several sinks the sum.

    Example:
        >>> import torch
        >>> sink_score(torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]]))
        tensor([[0.7500]], dtype=torch.float64)
    """
    return _state(pattern, lengths, sink_position).sink_score()


def sink_attention(
    pattern: Patterns,
    lengths: Lengths | None = None,
    sink_position: SinkPositions = 0,
    window: int | None = None,
) -> PerHead:
    """Mean of ``A_qs`` over the queries after the sink that may see it; NaN when there are none.

    Of several sinks: the mean attention to them all, over the queries that are none of them and may see any.
    Unlike the sink score it does not saturate on short prompts, and is fair to sliding windows.
    """
    return _state(pattern, lengths, sink_position, window).mean("sink attention")


def visible_queries(
    pattern: Patterns,
    lengths: Lengths | None = None,
    sink_position: SinkPositions = 0,
    window: int | None = None,
) -> Float[Tensor, "batch"]:
    """Number of queries after the sink that may see it: what ``sink_attention`` averages over."""
    return _state(pattern, lengths, sink_position, window).result()["visible_queries"]


def col_sum_max(pattern: Patterns, lengths: Lengths | None = None) -> PerHead:
    """``max_k C_k`` with ``C_k = (1/T) sum_q A_qk``: how strong a sink is, wherever it sits."""
    return _state(pattern, lengths).column_means().amax(-1)


def col_sum_argmax(pattern: Patterns, lengths: Lengths | None = None) -> Int[Tensor, "batch head"]:
    """The key position of the largest column mean; -1 where the pattern holds NaN."""
    return _state(pattern, lengths).result()["col_sum_argmax"]


def later_attention(
    pattern: Patterns, lengths: Lengths | None = None, window: int | None = None
) -> Float[Tensor, "batch head key"]:
    """Mean of ``A_qk`` over the queries ``q > k`` that may see ``k``: ``sink_attention`` of every position.

    A late key is seen by few queries; dividing by their number makes positions comparable. NaN where fewer
    than 8 see it: over so few, a head that looks at the token before would pass for a sink.

    Example:
        >>> import torch
        >>> uniform = torch.ones(1, 1, 12, 12).tril() / torch.arange(1, 13)[:, None]
        >>> later_attention(uniform)[0, 0, :5]
        tensor([0.1912, 0.1603, 0.1411, 0.1275,    nan], dtype=torch.float64)
    """
    return _state(pattern, lengths, window=window).later_attention()


def top_columns(
    pattern: Patterns, lengths: Lengths | None = None, window: int | None = None, n: int = 4
) -> TopColumns:
    """The ``n`` positions with the largest ``later_attention``, root mean square over heads."""
    return _state(pattern, lengths, window=window).top_columns(n)


def col_sum_concentration(pattern: Patterns, lengths: Lengths | None = None) -> PerHead:
    """``1 - H(p) / ln T``, ``p = C / sum C``: how unequally the columns are fed, in [0, 1].

    The ColSum Concentration of arXiv 2604.11791 (appendix E.2), where ``p`` is the column sum over T: the
    same where rows sum to one.
    """
    return _state(pattern, lengths).column_concentration()


def mixing_score(
    pattern: Patterns,
    lengths: Lengths | None = None,
    window: int | None = None,
    *,
    normalizer: Literal["visible_keys", "length"] = "visible_keys",
    include_first_row: bool = False,
) -> PerHead:
    """Mean over queries ``q >= 1`` of ``H(A_q / sum_k A_qk) / ln(keys q may see)``, in [0, 1].

    1 is a head that averages over everything it sees, 0 one that looks at a single token. A query sees
    ``min(q + 1, window)`` keys. The plausible variants: ``normalizer="length"`` divides by ln T
    instead, and ``include_first_row=True`` counts the first row, which has no choice, as 0.
    """
    return _state(pattern, lengths, window=window).mixing_score(normalizer, include_first_row)


def mixing_entropy(pattern: Patterns, lengths: Lengths | None = None) -> PerHead:
    """Mean over *every* query ``q``, the first included, of ``H(A_q / sum_k A_qk)``, in nats.

    The Mixing Score of arXiv 2604.11791 (section 2.2). It grows with the length of the prompt;
    ``mixing_score`` divides by what a query can reach.

    Example:
        >>> import torch
        >>> uniform = torch.ones(1, 1, 4, 4).tril() / torch.arange(1, 5)[:, None]
        >>> mixing_entropy(uniform)  # ln(1 * 2 * 3 * 4) / 4
        tensor([[0.7945]], dtype=torch.float64)
    """
    return _state(pattern, lengths).mean("row entropy")


def identity_score(
    pattern: Patterns, lengths: Lengths | None = None, sink_position: SinkPositions = 0
) -> PerHead:
    """Mean over ``q >= 1``, ``q != s``, of ``A_qq``: attention of a token to itself."""
    return _state(pattern, lengths, sink_position).mean("identity")


def previous_token_score(
    pattern: Patterns, lengths: Lengths | None = None, sink_position: SinkPositions = 0
) -> PerHead:
    """Mean over ``q >= 1`` of ``A_{q,q-1}``, leaving out ``q - 1 = s`` and ``q = s``."""
    return _state(pattern, lengths, sink_position).mean("previous token")


def learned_sink_mass(pattern: Patterns, lengths: Lengths | None = None) -> PerHead:
    """Mean over queries of ``1 - sum_k A_qk``: what a learned sink logit took out of the softmax."""
    return 1.0 - _state(pattern, lengths).mean("mass")


def sink_versus_identity(sink: PerHead, identity: PerHead, *, as_share: bool = False) -> PerHead:
    """``(sink_attention - identity_score) / (sink_attention + identity_score)``, in [-1, 1].

    With ``as_share`` the sink's share ``x = sink / (sink + identity)``, in [0, 1]; the other is ``2 x - 1``.
    """
    return (sink if as_share else sink - identity) / (sink + identity)


def sink_rate(
    scores: Float[Tensor, "*batch head"], threshold: float = SINK_THRESHOLD
) -> Float[Tensor, "*batch"]:
    """Fraction of heads whose sink score is at least the threshold (arXiv 2604.11791)."""
    return _fraction_from(scores, threshold)


def col_sum_rate(
    largest: Float[Tensor, "*batch head"], threshold: float = SINK_THRESHOLD
) -> Float[Tensor, "*batch"]:
    """Fraction of heads with a sink anywhere: ``col_sum_max`` (or a variant) of at least the threshold."""
    return _fraction_from(largest, threshold)


def sink_value_ratio(
    values: Float[Tensor, "batch pos value_head d_head"],
    lengths: Lengths | None = None,
    sink_position: SinkPositions = 0,
) -> Float[Tensor, "batch value_head"]:
    """``||v_s||`` over the mean of ``||v_i||`` over all real tokens, per value head.

    Near 0, attending to the sink means doing nothing.
    """
    lengths = full_lengths(values.shape[0], values.shape[1], lengths, sink_position)
    state = ValueState(lengths, sink_position)
    state.update(values)
    return state.result()


def _fraction_from(scores: Float[Tensor, "*batch head"], threshold: float) -> Float[Tensor, "*batch"]:
    enough: Bool[Tensor, "*batch head"] = scores >= threshold
    return torch.where(scores.isnan().any(-1), torch.nan, enough.double().mean(-1))


def _state(
    pattern: Patterns,
    lengths: Lengths | None = None,
    sink_position: SinkPositions = 0,
    window: int | None = None,
) -> AttentionState:
    """The whole pattern taken in as one block."""
    batch, _, queries, keys = pattern.shape
    if queries != keys:
        raise InputError(
            f"a whole pattern is square, got {queries} queries x {keys} keys; "
            "feed blocks of rows to AttentionState.update"
        )
    lengths = full_lengths(batch, queries, lengths, sink_position)
    state = AttentionState(lengths, sink_position, window)
    state.update(pattern[..., : int(lengths.max()), : int(lengths.max())])
    return state
