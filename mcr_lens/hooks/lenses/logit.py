"""The logit lens: what every depth would predict, if it were the last.

An observer like any other: its hooks compose with any list, and it shares a pass with a profile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.errors import InputError, one_line
from mcr_lens.hooks.observers.base import BlockObserver, PromptTable, depth_points
from mcr_lens.hooks.observers.nonfinite import without
from mcr_lens.hooks.observers.rows import Rows
from mcr_lens.metrics.prediction import (
    all_finite,
    distribution_entropy,
    kl_divergence,
    log_distribution,
    target_rank,
)
from mcr_lens.metrics.rows import real_rows
from mcr_lens.models import Model, model_facts
from mcr_lens.models.unembed import read_out, rows_at_a_time
from mcr_lens.validate import check_count

__all__ = ["LogitLens"]

# What is known only of a token that has a next one.
_OF_TARGETS = ("lens_loss", "target_rank", "target_probability")


class LogitLens(BlockObserver[None]):
    """Reads every depth 0..L out through the model's own final norm, unembedding and softcap.

    With p_l the distribution over the next token that depth l gives, and t the token that came:

    - ``lens_loss`` = -ln p_l(t) (nats), ``target_probability`` = p_l(t), ``target_rank`` = number of tokens
      with strictly larger logits than t: means over the T - 1 tokens of a prompt that have a next one;
    - ``lens_entropy`` = H(p_l), ``lens_kl`` = KL(p_L || p_l) (nats): means over all T tokens.

    At the last depth the loss is the model's own and the KL is 0. Each is a number a (prompt, depth). The
    residuals of the block of rows that is running are kept until the last depth has fired; then they are
    read out some rows at a time, so that neither (depth, T, vocabulary) nor (T, vocabulary) ever exists.

    Hooks on the final norm and the unembedding themselves are not seen: the lens reads out with the
    model's own weights. Source: nostalgebraist 2020; Belrose et al. 2023 (arXiv 2303.08112).

    Logits may overflow where the state they are read out of is finite. Such a token has no number, nor has
    its prompt at that depth: NaN.

    Args:
        model: from ``load_model``.
        tokens: ``[batch, pos]`` ids that the model will be run on. Needed only outside the engine, where
            nobody else knows what came next; without them the three variables of the target are absent.
        top_k: also ``top_token`` and ``top_probability``, (prompt, depth, position, k), best first.
        per_token: also every variable before its mean, as ``<name>_by_token`` (prompt, depth, position).
        token_block: rows read out at a time; by default as many as give 2**24 logits.

    Shorter prompts are padded with NaN, and ``top_token`` with -1.

    Raises:
        InputError: for options out of range, or where the self-check found that the last depth, read out,
            is not the model's logits.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> tokens = model.to_tokens("Natalia sold clips to 48 friends.")
        >>> lens = LogitLens(model, tokens)
        >>> loss = model.run_with_hooks(tokens, fwd_hooks=lens.hooks(), return_type="loss")
        >>> bool(abs(lens.result().lens_loss.isel(prompt=0, depth=-1) - loss.item()) < 1e-5)
        True
    """

    def __init__(
        self,
        model: Model,
        tokens: Int[Tensor, "batch pos"] | Sequence[Sequence[int]] | None = None,
        *,
        top_k: int = 0,
        per_token: bool = False,
        token_block: int | None = None,
    ) -> None:
        facts = model_facts(model)
        facts.require("final_readout", type(self).__name__)
        check_count("top_k", top_k, 0, facts.d_vocab)
        if token_block is not None:
            check_count("token_block", token_block)
        points = depth_points(facts.n_layers)
        super().__init__(points, PromptTable("depth", points, ("position", "k")))
        self._model = model
        self._tokens = None if tokens is None else _checked_tokens(tokens, facts.d_vocab)
        self._top_k = top_k
        self._per_token = per_token
        self._token_block = token_block or rows_at_a_time(model)
        self._residuals: list[Tensor] = []
        self._blocks: list[dict[str, Tensor]] = []

    def result(self) -> xr.Dataset:
        """The variables above, as far as they were asked for and could be known."""
        data = super().result()
        numbered = [dim for dim in ("position", "k") if dim in data.dims]
        return data.assign_coords({dim: range(data.sizes[dim]) for dim in numbered})

    def _take(self, block: Tensor, rows: Rows, place: int) -> None:
        if place == 0:
            self._residuals = []
            if rows.context.offset == 0:
                self._blocks = []
        if place != len(self._residuals):
            raise InputError(
                f"a lens reads whole passes: depth {place} fired after {len(self._residuals)} others"
            )
        self._residuals.append(rows.pack(block))
        if place < len(self._points) - 1:
            return
        variables = self._read_out(self._targets(rows))
        self._residuals = []
        self._blocks.append({name: rows.spread(values) for name, values in variables.items()})
        if rows.is_end:
            self._add_means(rows)

    def _targets(self, rows: Rows) -> Int[Tensor, "real"] | None:
        """The token that came after each real row; -1 where its prompt ends."""
        if rows.tokens is not None or self._tokens is None:
            return None if rows.tokens is None else rows.next_tokens(rows.tokens)
        if self._tokens.shape != rows.real.shape:
            raise InputError(
                f"the lens was given tokens of shape {tuple(self._tokens.shape)}, the model runs on "
                f"{tuple(rows.real.shape)}: give it the tokens that the model is run on"
            )
        return rows.next_tokens(self._tokens)

    def _translated(self, state: Tensor, depth: int) -> Tensor:
        """What is read out for a depth: the state as it is."""
        return state

    def _read_out(self, targets: Tensor | None) -> dict[str, Float[Tensor, "depth real *k"]]:
        """Every variable of every real row, some rows at a time."""
        blocks: list[dict[str, Tensor]] = []
        for start in range(0, len(self._residuals[-1]), self._token_block):
            rows = slice(start, start + self._token_block)
            last = read_out(self._model, self._residuals[-1][rows][None])[0]
            log_last = log_distribution(last).masked_fill_(~all_finite(last)[:, None], torch.nan)
            following = None if targets is None else targets[rows].to(last.device)
            depths = []
            for depth, state in enumerate(self._residuals[:-1]):
                logits = read_out(self._model, self._translated(state[rows], depth)[None])[0]
                depths.append(self._measured(logits, log_last, following))
                del logits  # before the next ones are made
            depths.append(self._measured(last, log_last, following))
            blocks.append({name: torch.stack([depth[name] for depth in depths]) for name in depths[0]})
        return _joined(blocks, 1)

    def _measured(self, logits: Tensor, log_last: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
        """One depth of a block of rows, each NaN (-1 for integers) where its logits are not all finite."""
        log_p = log_distribution(logits)
        values = {"lens_entropy": distribution_entropy(log_p), "lens_kl": kl_divergence(log_last, log_p)}
        if targets is not None:
            valid = targets.clamp(min=0)
            log_target = log_p.gather(-1, valid[:, None])[:, 0]
            of_targets = (-log_target, target_rank(logits, valid), log_target.exp())
            for name, value in zip(_OF_TARGETS, of_targets, strict=True):
                values[name] = value.masked_fill(targets < 0, torch.nan)
        if self._top_k:
            top = log_p.topk(self._top_k)
            values |= {"top_token": top.indices, "top_probability": top.values.exp()}
        return without(~all_finite(logits), values)

    def _add_means(self, rows: Rows) -> None:
        """The batch is over: means over each prompt's tokens."""
        by_token, self._blocks = _joined(self._blocks, 2), []
        lengths, longest = rows.host_lengths, by_token["lens_entropy"].shape[2]
        # Also where the loss, which leaves the last token out, has all its terms.
        is_real = real_rows(lengths, longest, 0, lengths.device)
        lost = (by_token["lens_entropy"].isnan() & is_real).any(-1)
        results: dict[str, Tensor] = {}
        for name, values in by_token.items():
            if name.startswith("top_"):
                results[name] = values
                continue
            counts = lengths - 1 if name in _OF_TARGETS else lengths
            counted = real_rows(counts, longest, 0, lengths.device)
            mean = values.double().where(counted, 0.0).sum(-1) / counts
            results[name] = mean.masked_fill(lost, torch.nan)
            if self._per_token:
                results[f"{name}_by_token"] = values
        for depth in self._points:
            values_there = {name: value[depth] for name, value in results.items()}
            self._table.add(depth, values_there, rows.context.prompts)


def _joined(blocks: Sequence[Mapping[str, Tensor]], dim: int) -> dict[str, Tensor]:
    return {name: torch.cat([block[name] for block in blocks], dim) for name in blocks[0]}


def _checked_tokens(tokens: Tensor | Sequence[Sequence[int]], d_vocab: int) -> Int[Tensor, "batch pos"]:
    try:
        ids = torch.as_tensor(tokens).cpu()
    except (TypeError, ValueError, RuntimeError) as error:  # rows of different lengths, no numbers
        raise InputError(
            f"tokens: {one_line(error, 120)}; give ids (batch, pos), all rows of one length"
        ) from error
    if ids.ndim != 2 or ids.is_floating_point() or not ids.numel():
        raise InputError(f"tokens of shape {tuple(ids.shape)} and {ids.dtype}: give ids (batch, pos)")
    if int(ids.min()) < 0 or int(ids.max()) >= d_vocab:
        raise InputError(f"tokens {int(ids.min())}..{int(ids.max())}: the vocabulary is 0..{d_vocab - 1}")
    return ids.long()
