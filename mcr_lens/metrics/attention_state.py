"""Attention patterns of one layer, taken in by blocks of query rows: every quantity, mergeable."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.metrics.rows import SinkPositions, full_lengths, real_rows, row_positions, sink_set
from mcr_lens.thresholds import MIN_QUERIES

__all__ = ["AttentionState", "TopColumns"]


# Query rows whose entropy is taken at once on the host.
_ROWS = 64


class TopColumns(NamedTuple):
    """The few columns of each prompt in one layer that later queries attend to most, strongest first.

    Attributes:
        position: position of the key in its prompt; -1 where a prompt has no further column to name.
        attention: each head's mean attention to it, over the later queries that may see it; NaN there.
    """

    position: Int[Tensor, "batch rank"]
    attention: Float[Tensor, "batch rank head"]


class AttentionState:
    """Running sums over the query rows of a batch of prompts in one layer.

    Nothing quadratic in the prompt's length is kept: column sums and the diagonal, and per head a handful
    of sums over rows. Rows of zeros (left padding) are no distribution and are left out.

    Args:
        lengths: real tokens of each prompt, all blocks together.
        sink_position: the column that is watched; of several the sum.
        window: number of keys a query may see under a sliding window, ``None`` for all before it.
    """

    def __init__(
        self, lengths: Int[Tensor, "batch"], sink_position: SinkPositions = 0, window: int | None = None
    ) -> None:
        longest = int(lengths.max())
        self.lengths = full_lengths(len(lengths), longest, lengths, sink_position)
        self.sinks = sink_set(sink_position)
        if window is not None and window < 1:
            raise InputError(f"window {window}: a query sees at least its own key, use 1 or more")
        self.window = window if window is not None else longest
        # By key: the sum of the column but for its own entry, that entry, and whether its own row counts.
        self._by_key: dict[str, Float[Tensor, "batch head key"]] = {}
        self._sums: dict[str, Float[Tensor, "batch head"]] = {}

    def update(
        self,
        pattern: Float[Tensor, "batch head query key"],
        offset: int = 0,
        first_key: int = 0,
    ) -> None:
        """Take in the query rows at positions ``offset, offset + 1, ...``.

        Args:
            pattern: post-softmax attention; its last query sits at the last key's position.
            first_key: position of the first key, above 0 where a sliding window has dropped keys.
        """
        queries, keys = pattern.shape[-2:]
        if first_key + keys != offset + queries:
            raise InputError(
                f"a block of {queries} queries from position {offset} needs keys up to position "
                f"{offset + queries - 1}; got {keys} keys from position {first_key}"
            )
        pattern = pattern.detach()
        pattern = pattern if pattern.dtype == torch.float64 else pattern.float()
        mass = pattern.sum(-1)
        real = real_rows(self.lengths, queries, offset, pattern.device)[:, None] & (mass > 0)
        # NaN rows count, so that a broken pattern shows as NaN rather than vanishing.
        real |= real_rows(self.lengths, queries, offset, pattern.device)[:, None] & mass.isnan()
        self._add_by_key("rest", _sums_of_rest(pattern, mass, real, offset - first_key), first_key)
        itself = _shifted_diagonal(pattern, offset - first_key)
        self._add_by_key("itself", torch.where(real, itself, 0.0), offset)
        self._add_by_key("row", real, offset)
        for name, rows, counted in self._row_statistics(pattern, mass, real, offset, first_key):
            self._add(name, torch.where(counted, rows, 0.0).sum(-1))
            self._add(f"{name} rows", counted.expand_as(rows).sum(-1))

    def merge(self, other: AttentionState) -> AttentionState:
        """Add the sums of another state of the same prompts that saw other rows; returns ``self``."""
        for name, values in other._by_key.items():
            self._add_by_key(name, values, 0)
        for name, total in other._sums.items():
            self._add(name, total)
        return self

    def column_means(self) -> Float[Tensor, "batch head key"]:
        """``C_k = (1/T) sum_q A_qk`` for every key position."""
        return (self._of_key("rest") + self._of_key("itself")) / self._sums["mass rows"][..., None]

    def sink_score(self) -> Float[Tensor, "batch head"]:
        """The sum of the sinks' column means."""
        return self.column_means()[..., list(self.sinks)].sum(-1)

    def later_attention(self) -> Float[Tensor, "batch head key"]:
        """Mean of ``A_qk`` over the queries ``q > k`` that may see ``k``, for every key position.

        What ``sink_attention`` is at the sink position. A late key is seen by few queries, so columns of one
        prompt are only comparable after this division; NaN where fewer than ``MIN_QUERIES`` see it.
        """
        queries = self._later_queries()
        return (self._of_key("rest") / queries).where(queries >= MIN_QUERIES, torch.nan)

    def top_columns(self, n: int = 4) -> TopColumns:
        """The ``n`` positions that later queries attend to most, strongest first.

        Positions are ranked by the largest ``later_attention`` of any head, so that no head's sink is lost
        among positions that all heads attend to a little. Positions that fewer than
        ``MIN_QUERIES`` later queries may see, or that get no attention, are never named.
        """
        attention = self.later_attention()
        strength = attention.nan_to_num(nan=0.0).amax(1)
        order = strength.sort(dim=-1, descending=True, stable=True).indices[:, :n]
        order = torch.nn.functional.pad(order, (0, n - order.shape[1]))
        found = torch.arange(n, device=order.device) < (strength > 0).sum(-1, keepdim=True)
        chosen = attention.take_along_dim(order[:, None], dim=-1)
        chosen = chosen.mT.where(found[..., None], torch.nan)
        return TopColumns(order.where(found, -1), chosen)

    def column_concentration(self) -> Float[Tensor, "batch head"]:
        """``1 - H(C / sum C) / ln T``: 0 when every column gets the same, 1 when one gets all."""
        columns = self.column_means()
        share = columns / columns.sum(-1, keepdim=True)
        tokens = self.lengths.to(columns.device)[:, None].double()
        return 1.0 - torch.special.entr(share).sum(-1) / tokens.log()

    def mixing_score(
        self,
        normalizer: Literal["visible_keys", "length"] = "visible_keys",
        include_first_row: bool = False,
    ) -> Float[Tensor, "batch head"]:
        """Mean over query rows of the row's entropy over its largest possible value.

        ``normalizer`` chooses that value: ln of the keys the query may see, or ln T for every row.
        The first row, which has no choice, counts as 0 when it is included.
        """
        if normalizer not in ("visible_keys", "length"):
            raise InputError(f"normalizer {normalizer!r}: use 'visible_keys' or 'length'")
        total, rows = self._sums["mixing"], self._sums["mixing rows"]
        if normalizer == "length":
            tokens = self.lengths.to(total.device)[:, None].double()
            total = self._sums["row entropy"] / tokens.log()
        return total / (rows + 1 if include_first_row else rows)

    def mean(self, name: str) -> Float[Tensor, "batch head"]:
        """Mean of a row statistic over the rows it is defined for; NaN over none."""
        return self._sums[name] / self._sums[f"{name} rows"]

    def result(self) -> dict[str, Tensor]:
        """Every variable of the (prompt, layer, head) kind, and ``visible_queries`` (batch,)."""
        columns = self.column_means()
        largest = columns.max(-1)
        # A broken pattern has no largest column.
        where_largest = largest.indices.where(largest.values.isfinite(), -1)
        return {
            "sink_score": columns[..., list(self.sinks)].sum(-1),
            "sink_attention": self.mean("sink attention"),
            "visible_queries": self._sums["sink attention rows"].amax(-1),
            "col_sum_max": largest.values,
            "col_sum_argmax": where_largest,
            "col_sum_concentration": self.column_concentration(),
            "mixing_score": self.mixing_score(),
            "mixing_entropy": self.mean("row entropy"),
            "identity_score": self.mean("identity"),
            "previous_token_score": self.mean("previous token"),
            "learned_sink_mass": 1.0 - self.mean("mass"),
        }

    def _row_statistics(
        self,
        pattern: Tensor,
        mass: Tensor,
        real: Bool[Tensor, "batch head query"],
        offset: int,
        first_key: int,
    ) -> list[tuple[str, Tensor, Tensor]]:
        """``(name, value of each row, rows it is defined for)``, one triple a statistic."""
        queries, keys = pattern.shape[-2:]
        position = row_positions(queries, offset, pattern.device)
        visible = (position + 1).clamp(max=self.window)
        entropy = _entropies(pattern) / mass + mass.log()
        columns = [sink - first_key for sink in self.sinks]
        parts = [pattern[..., column] for column in columns if 0 <= column < keys]
        to_sink = sum(parts[1:], parts[0]) if parts else torch.zeros_like(mass)
        not_first = real & (position >= 1)
        is_sink, sees_sink, after_sink = (torch.zeros_like(position, dtype=torch.bool) for _ in range(3))
        for sink in self.sinks:
            is_sink = is_sink | (position == sink)
            after_sink = after_sink | (position - 1 == sink)
            sees_sink = sees_sink | ((position > sink) & (position - sink < self.window))
        itself = _shifted_diagonal(pattern, offset - first_key)
        previous = _shifted_diagonal(pattern, offset - first_key - 1)
        return [
            ("mass", mass, real),
            ("sink attention", to_sink, real & sees_sink & ~is_sink),
            ("row entropy", entropy, real),
            ("mixing", entropy / visible.float().log(), not_first),
            ("identity", itself, not_first & ~is_sink),
            ("previous token", previous, not_first & ~is_sink & ~after_sink),
        ]

    def _add(self, name: str, total: Tensor) -> None:
        total = total.double()
        self._sums[name] = self._sums[name] + total if name in self._sums else total

    def _add_by_key(self, name: str, values: Tensor, first_key: int) -> None:
        if name not in self._by_key:
            shape = (*values.shape[:2], int(self.lengths.max()))
            self._by_key[name] = torch.zeros(shape, dtype=torch.float64, device=values.device)
        sums = self._by_key[name]
        # Columns beyond the longest prompt are padding.
        last = min(first_key + values.shape[-1], sums.shape[-1])
        sums[..., first_key:last] += values[..., : last - first_key]

    def _of_key(self, name: str) -> Float[Tensor, "batch head key"]:
        if name not in self._by_key:
            raise InputError("no block of query rows was seen yet")
        return self._by_key[name]

    def _later_queries(self) -> Float[Tensor, "batch head key"]:
        """Number of rows after each key that may see it."""
        until = self._of_key("row").cumsum(-1)
        keys = until.shape[-1]
        last_seeing = (torch.arange(keys, device=until.device) + self.window - 1).clamp(max=keys - 1)
        return until[..., last_seeing] - until


def _sums_of_rest(
    pattern: Float[Tensor, "batch head query key"],
    mass: Float[Tensor, "batch head query"],
    real: Bool[Tensor, "batch head query"],
    shift: int,
) -> Float[Tensor, "batch head key"]:
    """Sum of each column over the rows that count, its own row's entry left out.

    Left out before the sum: taken off afterwards, a large entry would leave its rounding behind.
    """
    queries, keys = pattern.shape[-2:]
    on_host = pattern.device.type == "cpu"
    # A product takes no copy of what does not count, but times 0 Inf and NaN survive.
    is_product = on_host and bool((real | mass.isfinite()).all())
    sums, step = pattern.new_zeros(*pattern.shape[:2], keys), _ROWS if on_host else queries
    for start in range(0, queries, step):
        last = min(keys, shift + start + step)
        rows = pattern[..., start : start + step, :last].clone()
        rows.diagonal(offset=shift + start, dim1=-2, dim2=-1).zero_()
        counts = real[..., start : start + step]
        if is_product:
            sums[..., :last] += (counts.to(pattern.dtype)[..., None, :] @ rows).squeeze(-2)
        else:
            sums[..., :last] += torch.where(counts[..., None], rows, 0.0).sum(-2)
    return sums


def _entropies(pattern: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query"]:
    """``-sum_k A_qk ln A_qk`` of each row as it is."""
    queries, keys = pattern.shape[-2:]
    if pattern.device.type != "cpu":
        return torch.special.entr(pattern).sum(-1)
    # A few rows at a time stay in the cache, and the keys after the last of them get nothing.
    parts = []
    for start in range(0, queries, _ROWS):
        rows = pattern[..., start : start + _ROWS, : keys - queries + start + _ROWS]
        parts.append(torch.special.entr(rows).sum(-1))
    return torch.cat(parts, -1)


def _shifted_diagonal(
    pattern: Float[Tensor, "batch head query key"], shift: int
) -> Float[Tensor, "batch head query"]:
    """``pattern[..., q, q + shift]`` for every query row, 0 where that key is not there."""
    diagonal = pattern.diagonal(offset=shift, dim1=-2, dim2=-1)
    missing = pattern.shape[-2] - diagonal.shape[-1]
    return torch.nn.functional.pad(diagonal, (missing, 0))
