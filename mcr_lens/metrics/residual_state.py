"""The residual stream of one depth, taken in block by block: every quantity, mergeable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.metrics import bounds, eigenproblems, residual, spectrum
from mcr_lens.metrics.bounds import Masses
from mcr_lens.metrics.eigenproblems import Eigenproblem, Eigenvalues
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.metrics.rows import SinkPositions, full_lengths, real_rows, rest_rows, sink_set
from mcr_lens.metrics.threads import on_every_core

__all__ = ["ResidualState"]


class ResidualState:
    """Running statistics of a batch of prompts at one depth.

    Blocks of rows may come in any number (chunked prefill). Between blocks the smaller of the rows
    and their ``d_model x d_model`` Gram is kept; blocks that come before the sink token are held until
    it is known, because the Gram is taken in a basis that contains it.

    Args:
        lengths: real tokens of each prompt, all blocks together.
        sink_position: position in the prompt of the sink token, or of several, the primary first: then
            entropies without the sink are those without them all; norms and bounds speak of the primary.
        estimator: how the entropy is estimated; the bounds always speak of the raw matrix.
    """

    def __init__(
        self,
        lengths: Int[Tensor, "batch"],
        sink_position: SinkPositions = 0,
        estimator: Estimator = Estimator(),  # noqa: B008  (frozen)
    ) -> None:
        longest = int(lengths.max())
        self.lengths = full_lengths(len(lengths), longest, lengths, sink_position)
        self.sinks = sink_set(sink_position)
        self.sink_position = self.sinks[0]
        self.estimator = estimator
        self._sink: Float[Tensor, "batch d_model"] | None = None
        self._pending: list[tuple[int, Tensor]] = []
        self._blocks: list[tuple[int, Tensor]] = []
        self._gram: Float[Tensor, "batch d_model d_model"] | None = None
        self._medians: list[tuple[int, Float[Tensor, "batch rows"]]] = []
        self._rest_norms: Tensor | float = 0.0
        self._rest_masses: list[Tensor | float] = [0.0, 0.0, 0.0]
        # Squared mass of the rows of no sink, and, of long prompts, the rows of further sinks.
        self._mass_of_others: Tensor | float = 0.0
        self._more_sinks: dict[int, Float[Tensor, "batch d_model"]] = {}
        self._top: residual.TopActivation | None = None
        self._largest_rest: tuple[Tensor, Tensor] | None = None
        self._d_model = 0

    def update(self, block: Float[Tensor, "batch rows d_model"], offset: int = 0) -> None:
        """Take in the rows at positions ``offset, offset + 1, ...`` of every prompt.

        Raises:
            InputError: when the estimator needs the whole prompt and the block is not all of it.
        """
        rows = block.shape[1]
        whole = offset == 0 and rows >= int(self.lengths.max())
        if self.estimator.needs_whole_prompt and not whole:
            raise InputError(
                f"estimator {self.estimator} needs the whole prompt at once; profile without chunk=, "
                "or use an estimator that does not centre"
            )
        self._d_model = block.shape[2]
        if offset <= self.sink_position < offset + rows:
            self._sink = block[:, self.sink_position - offset].double()
        if self._sink is None:
            self._pending.append((offset, block.clone()))
            return
        held, self._pending = self._pending, []
        for held_offset, held_block in [*held, (offset, block)]:
            self._take(held_block, held_offset)

    def merge(self, other: ResidualState) -> ResidualState:
        """Add the rows that another state of the same prompts has seen; returns ``self``."""
        if self._sink is None and other._sink is not None:
            return other.merge(self)
        for offset, block in other._pending:
            self.update(block, offset)
        if other._sink is not None:
            raise InputError("both states hold the sink token: merge states of different rows")
        return self

    @property
    def is_on_host(self) -> bool:
        """Whether its rows are in the host's memory, not on an accelerator."""
        return self._known_sink().device.type == "cpu"

    def eigenproblems(self) -> list[Eigenproblem]:
        """What is left to solve, a call a prompt, for ``on_every_core``; for once, since it overwrites."""
        sink = self._known_sink()
        if self._gram is not None:
            more = None
            if self._more_sinks:
                more = torch.stack([self._more_sinks[position] for position in self.sinks[1:]], 1)
                more = eigenproblems.rotate_to_first_axis(self._scaled(more), sink)
            return eigenproblems.eigenproblems_of_gram(self._scaled(sink), self._gram, more)
        rows = torch.cat([block for _, block in sorted(self._blocks, key=_offset)], dim=1)
        return eigenproblems.eigenproblems(rows, self.lengths, self.sinks, self.estimator)

    def result(self, solved: Sequence[Eigenvalues] | None = None) -> dict[str, Tensor]:
        """Every variable of the (prompt, depth) kind, each a tensor ``(batch,)``.

        Args:
            solved: what the ``eigenproblems`` returned; they are solved here when left out.
        """
        sink, top = self._known_sink(), self._top
        assert top is not None
        tokens = self.lengths.to(sink.device)
        sink_norm = torch.linalg.vector_norm(sink, dim=-1)
        rest_norm = torch.as_tensor(self._rest_norms) / (tokens - 1)
        values = {
            "sink_norm": sink_norm,
            "rest_norm": rest_norm,
            "norm_ratio": sink_norm / rest_norm,
        }
        values |= self._spectrum_result(on_every_core(self.eigenproblems()) if solved is None else solved)
        values |= {
            "top_activation": top.value,
            "top_activation_position": top.position,
            "top_activation_dimension": top.dimension,
            "median_activation": self._median(),
        }
        largest, position = self._largest_rest or (torch.zeros_like(sink_norm), torch.full_like(tokens, -1))
        mass = Masses(sink.square().sum(-1), *map(torch.as_tensor, self._rest_masses))
        others = torch.as_tensor(self._mass_of_others)
        mass_of_sinks = sum((row.square().sum(-1) for row in self._more_sinks.values()), mass.sink)
        return values | {
            "largest_rest_share": largest.square() / others,
            "largest_rest_position": torch.where(largest > 0, position, -1),
            "sink_mass_ratio": mass_of_sinks / others,
            "norm_mass_ratio": bounds.norm_mass_ratio(mass),
            "alignment": bounds.alignment(mass),
            "anisotropy_bound": bounds.anisotropy_bound(mass),
            "dominance_bound": bounds.dominance_bound(mass),
            "entropy_bound": bounds.entropy_bound(mass, tokens, self._d_model),
        }

    def _known_sink(self) -> Float[Tensor, "batch d_model"]:
        if self._sink is None:
            raise InputError(f"no block with the sink position {self.sink_position} was seen yet")
        return self._sink

    def _take(self, block: Tensor, offset: int) -> None:
        """Reduce a block whose sink token is known."""
        assert self._sink is not None
        rows, device = block.shape[1], block.device
        if offset + rows > int(self.lengths.min()):  # padding, which may hold anything
            is_real = real_rows(self.lengths, rows, offset, device)
            block = torch.where(is_real[..., None], block, 0.0)
        is_rest = rest_rows(self.lengths, rows, offset, self.sink_position, device)
        is_other = rest_rows(self.lengths, rows, offset, self.sinks, device) if self.sinks[1:] else is_rest
        x = block.double()
        norms, along, across = (torch.where(is_rest, part, 0.0) for part in bounds.split_norms(x, self._sink))
        self._rest_norms += norms.sum(-1)
        parts = (part.square().sum(-1) for part in (norms, along, across))
        self._rest_masses = [old + new for old, new in zip(self._rest_masses, parts, strict=True)]
        of_others = torch.where(is_other, norms, 0.0)
        self._mass_of_others = self._mass_of_others + of_others.square().sum(-1)
        self._take_largest_rest(of_others, offset)
        for position in self.sinks[1:]:
            if offset <= position < offset + rows:
                self._more_sinks[position] = x[:, position - offset]
        magnitude = _as_reduced(block).abs()
        self._medians.append((offset, residual.median_of_last(magnitude)))
        self._take_top(magnitude, offset)
        if self._keeps_rows:
            self._blocks.append((offset, x))
        else:
            rest = torch.where(is_other[..., None], self._scaled(x), 0.0)
            rest = eigenproblems.rotate_to_first_axis(rest, self._sink)
            gram = rest.mT @ rest
            self._gram = gram if self._gram is None else self._gram + gram

    def _take_largest_rest(self, norms: Float[Tensor, "batch rows"], offset: int) -> None:
        """The largest other row: one as massive as the sink must not go unnoticed."""
        largest, position = norms.max(-1)
        position = position + offset
        if self._largest_rest is not None:
            before, where = self._largest_rest
            position = torch.where(largest > before, position, where)
            largest = torch.maximum(largest, before)
        self._largest_rest = largest, position

    def _take_top(self, magnitude: Tensor, offset: int) -> None:
        found = residual.top_of_magnitude(magnitude)
        found = found._replace(position=found.position + offset)
        if self._top is None:
            self._top = found
        else:
            larger = found.value > self._top.value
            pairs = zip(found, self._top, strict=True)
            self._top = residual.TopActivation(*(torch.where(larger, new, old) for new, old in pairs))

    @property
    def _keeps_rows(self) -> bool:
        """Rows are the smaller thing to keep for short prompts, and all some estimators can use."""
        short = int(self.lengths.max()) <= self._d_model
        return short or self.estimator.needs_whole_prompt

    def _scaled(self, x: Tensor) -> Tensor:
        return eigenproblems.unit_rows(x) if self.estimator.unit_rows else x

    def _spectrum_result(self, solved: Sequence[Eigenvalues]) -> dict[str, Tensor]:
        full, without_sink = spectrum.stacked(solved)
        entropy = spectrum.matrix_entropy(full, self.estimator.alpha)
        rest_entropy = spectrum.matrix_entropy(without_sink, self.estimator.alpha)
        d_model = self._d_model
        normalized_rest = spectrum.normalized_entropy(rest_entropy, self.lengths - len(self.sinks), d_model)
        return {
            "matrix_entropy": entropy,
            "normalized_entropy": spectrum.normalized_entropy(entropy, self.lengths, d_model),
            "entropy_without_sink": rest_entropy,
            "normalized_entropy_without_sink": normalized_rest,
            "anisotropy": spectrum.anisotropy(full),
            "anisotropy_without_sink": spectrum.anisotropy(without_sink),
            "dominance": spectrum.dominance(full),
        }

    def _median(self) -> Tensor:
        """Median of the tokens' medians, over the real tokens of each prompt."""
        medians = torch.cat([block for _, block in sorted(self._medians, key=_offset)], dim=1)
        pairs = zip(medians, self.lengths.tolist(), strict=True)
        return torch.stack([residual.median_of_last(row[:length]) for row, length in pairs])


def _as_reduced(block: Tensor) -> Tensor:
    """Half precision as float32: what is selected, not summed, needs no more than that."""
    return block if block.dtype in (torch.float32, torch.float64) else block.float()


def _offset(block: tuple[int, Tensor]) -> int:
    return block[0]
