"""One vector a prompt and depth: what a probe or an embedding task reads of the residual stream."""

from collections.abc import Iterable, Sequence

import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext
from mcr_lens.hooks.observers.base import BlockObserver, PromptTable, depth_hooks
from mcr_lens.metrics.rows import full_lengths, real_rows, rest_rows, row_positions
from mcr_lens.models import Hook, Model, model_facts
from mcr_lens.validate import check_indices

__all__ = ["POOLINGS", "PooledStates", "chosen_depths", "chosen_poolings"]

POOLINGS = ("mean", "last", "mean_without_sink")


class _Sums:
    """Sum and number of the rows that each pooling takes, ``(batch, pooling, d_model)``."""

    def __init__(self, lengths: Int[Tensor, "batch"]) -> None:
        self.lengths = lengths
        self.sums: Tensor | float = 0.0
        self.counts: Tensor | int = 0


class PooledStates(BlockObserver[_Sums]):
    """The residual stream at every depth 0..L, pooled over the real tokens of each prompt.

    With x_1 .. x_T the states of a prompt's tokens at one depth and s the sink position:

    - ``"mean"``: (1/T) sum_i x_i, the sink token included. Where that token is massive, it is most of the
      sum: a vector that is nearly the same for every prompt, and scaled by 1/T;
    - ``"last"``: x_T, the one token that has seen the whole prompt;
    - ``"mean_without_sink"``: 1/(T-1) sum_{i != s} x_i; NaN for a prompt of one token.

    Depth l is the state before block l and depth L the one after the last block, always before the final
    norm (the last of Hugging Face's ``hidden_states`` comes after it). Sums are taken in float64 inside the
    hook; between the chunks of a long prompt one sum a pooling and depth is kept.

    Args:
        model: from ``load_model``.
        pooling: one of the names above, or several of them.
        depths: some of 0..L; all of them by default. A result holds (prompts x depths x poolings x d_model)
            numbers: with a large model choose.
        sink_position: the token that ``"mean_without_sink"`` leaves out.

    Raises:
        InputError: for a pooling or a depth that does not exist, or a sink position outside a prompt.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> prompts = mcr.Prompts.from_tokens([[0, 11, 12, 13], [0, 21, 22]])
        >>> data = mcr.measure(model, prompts, [PooledStates(model, "last")], progress=False)
        >>> data.pooled_state.dims
        ('prompt', 'depth', 'pooling', 'dimension')
    """

    def __init__(
        self,
        model: Model,
        pooling: str | Sequence[str] = POOLINGS,
        *,
        depths: Sequence[int] | None = None,
        sink_position: int = 0,
    ) -> None:
        self._n_layers = model_facts(model).n_layers
        self.poolings = chosen_poolings(pooling)
        self.depths = chosen_depths(depths, self._n_layers)
        self._sink_position = sink_position
        super().__init__(PromptTable("depth", self.depths, trailing=("pooling", "dimension")))

    def hooks(self) -> list[Hook]:
        """One hook a depth."""
        return depth_hooks(self._read, self.depths, self._n_layers)

    def result(self) -> xr.Dataset:
        """``pooled_state`` (prompt, depth, pooling, dimension), in float32."""
        data = super().result()
        return data.assign_coords(pooling=list(self.poolings)) if data.data_vars else data

    def _new_state(self, place: int, lengths: Int[Tensor, "batch"]) -> _Sums:
        return _Sums(full_lengths(len(lengths), int(lengths.max()), lengths, self._sink_position))

    def _update(self, state: _Sums, block: Tensor, offset: int) -> None:
        rows = self._rows_of(state.lengths, block.shape[1], offset, block.device)
        # Every pooling is a mean over some of the rows; rows outside it, padding above all, are not touched.
        sums = [torch.where(own[..., None], block, 0.0).sum(1, dtype=torch.float64) for own in rows]
        state.sums = state.sums + torch.stack(sums, 1)
        state.counts = state.counts + torch.stack([own.sum(1) for own in rows], 1)

    def _finish(self, place: int, state: _Sums, context: BatchContext) -> None:
        mean = state.sums / torch.as_tensor(state.counts)[..., None]
        self._table.add(place, {"pooled_state": mean.float().cpu()}, context.prompts)

    def _rows_of(
        self, lengths: Int[Tensor, "batch"], rows: int, offset: int, device: torch.device
    ) -> list[Bool[Tensor, "batch rows"]]:
        """Which rows of the block each pooling takes its mean over."""
        which = {
            "mean": lambda: real_rows(lengths, rows, offset, device),
            "last": lambda: row_positions(rows, offset, device) == lengths.to(device)[:, None] - 1,
            "mean_without_sink": lambda: rest_rows(lengths, rows, offset, self._sink_position, device),
        }
        return [which[pooling]() for pooling in self.poolings]


def chosen_poolings(pooling: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, each once, in the order given.

    Raises:
        InputError: for a name that does not exist, or none at all.
    """
    names = (pooling,) if isinstance(pooling, str) else tuple(dict.fromkeys(pooling))
    if not names or not set(names) <= set(POOLINGS):
        raise InputError(f"pooling {pooling!r}: use one or more of {', '.join(POOLINGS)}")
    return names


def chosen_depths(depths: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    """Depths in rising order, each once; all of 0..L for ``None``. Negative ones count from the end.

    Raises:
        InputError: for a depth that does not exist, or none at all.
    """
    if depths is None:
        return tuple(range(n_layers + 1))
    distinct = list(dict.fromkeys(depths)) if isinstance(depths, Iterable) else depths
    places = check_indices("depths", distinct, n_layers + 1, from_end=True)
    return tuple(sorted({range(n_layers + 1)[depth] for depth in places}))
