"""Which rows of a prompt are massive together: the set of sinks, found on a few rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import entr
from torch import Tensor

from mcr_lens.metrics.rows import MAX_SINKS, full_lengths, real_rows, row_positions
from mcr_lens.thresholds import MIN_REST_ENTROPY

__all__ = ["LargestRows", "MassiveRows", "massive_rows"]

# Rows that are looked at: the largest by norm, and the first others.
_ROWS, _LARGEST = 32, 8


class MassiveRows(NamedTuple):
    """The massive rows of one prompt, the largest first, and the kappa of leaving them all out."""

    positions: tuple[int, ...]
    compression: float


def massive_rows(gram: Float[np.ndarray, "n n"]) -> MassiveRows:
    """The rows that are massive together, by the Gram of some rows of a prompt.

    The ``k`` largest rows are massive when the smallest of them exceeds lambda_1 of what is left when all
    ``k`` are out, for ``k`` up to 4. Taken one by one, two equal rows would mask each other. Of the ``k``
    that qualify it is the one that leaves the most entropy to the others, and so has the largest
    kappa = 1 - H / H_rest; none when no ``k`` leaves more than there is with all rows.

    Example:
        >>> massive_rows(np.diag([1.0, 90.0, 1.0, 1.0, 90.0, 1.0])).positions
        (1, 4)
    """
    order = np.argsort(-np.diag(gram), kind="stable")
    ordered = gram[np.ix_(order, order)]
    sizes = np.diag(ordered)
    most, size = _entropy(ordered) if np.isfinite(gram).all() else np.inf, 0
    whole = most
    for k in range(1, min(MAX_SINKS, len(gram) - 2) + 1):
        rest = ordered[k:, k:]
        # Two Rayleigh quotients, below lambda_1, spare most eigenproblems.
        if not sizes[k - 1] > max(sizes[k], rest.sum() / len(rest)):
            continue
        values = np.linalg.eigvalsh(rest)
        entropy = _entropy(rest, values)
        if sizes[k - 1] > values[-1] and entropy > max(most, MIN_REST_ENTROPY):
            most, size = entropy, k
    return MassiveRows(tuple(int(row) for row in order[:size]), 1 - whole / most if size else 0.0)


def _entropy(gram: np.ndarray, eigenvalues: np.ndarray | None = None) -> float:
    values = (np.linalg.eigvalsh(gram) if eigenvalues is None else eigenvalues).clip(min=0)
    total = values.sum()
    return float(entr(values / total).sum()) if total > 0 else 0.0


class LargestRows:
    """Of each prompt at one depth the 8 largest rows by norm and the first others, 32 in all.

    Blocks of rows may come in any number.

    Args:
        lengths: real tokens of each prompt, all blocks together.
    """

    def __init__(self, lengths: Int[Tensor, "batch"]) -> None:
        self.lengths = full_lengths(len(lengths), int(lengths.max()), lengths)
        self._rows: Float[Tensor, "batch rows d_model"] | None = None
        self._positions: Int[Tensor, "batch rows"] | None = None

    def update(self, block: Float[Tensor, "batch rows d_model"], offset: int = 0) -> None:
        """Take in the rows at positions ``offset, offset + 1, ...`` of every prompt."""
        batch, n_rows, _ = block.shape
        real = real_rows(self.lengths, n_rows, offset, block.device)
        positions = row_positions(n_rows, offset, block.device).expand(batch, -1)
        rows, positions = torch.where(real[..., None], block, 0.0), positions.where(real, -1)
        if self._rows is not None and self._positions is not None:
            rows = torch.cat([self._rows, rows], 1)
            positions = torch.cat([self._positions, positions], 1)
        norms = torch.linalg.vector_norm(rows.double(), dim=-1).where(positions >= 0, -1.0)
        largest = norms.topk(min(_LARGEST, norms.shape[1])).indices
        # In order of position, the largest before and padding behind all others.
        rank = positions.where(positions >= 0, torch.iinfo(torch.int64).max).scatter(1, largest, -1)
        rank = rank.where(positions >= 0, torch.iinfo(torch.int64).max)
        kept = rank.sort(dim=-1, stable=True).indices[:, :_ROWS]
        self._rows = rows.take_along_dim(kept[..., None], 1)
        self._positions = positions.take_along_dim(kept, 1)

    def massive(self) -> list[MassiveRows]:
        """The massive rows of each prompt; none where rows hold Inf or NaN."""
        assert self._rows is not None and self._positions is not None, "no block was seen yet"
        rows = self._rows.double().cpu()
        grams, positions = (rows @ rows.mT).numpy(), self._positions.tolist()
        found = []
        for gram, at, length in zip(grams, positions, self.lengths.tolist(), strict=True):
            n = min(length, len(at))
            massive = massive_rows(gram[:n, :n])
            found.append(massive._replace(positions=tuple(at[row] for row in massive.positions)))
        return found
