"""One vector a prompt and depth: what a probe or an embedding task reads of the residual stream."""

from collections.abc import Iterable, Mapping, Sequence

import torch
import xarray as xr
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.observers.base import BlockObserver, PromptTable, depth_points
from mcr_lens.hooks.observers.rows import Rows
from mcr_lens.metrics.rows import full_lengths
from mcr_lens.models import Model, model_facts
from mcr_lens.validate import check_indices

__all__ = ["POOLINGS", "PooledStates", "chosen_depths", "chosen_poolings"]

POOLINGS = ("mean", "last", "mean_without_sink")
_SumsAndCounts = tuple[Tensor, Tensor]


class PooledStates(BlockObserver[_SumsAndCounts]):
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
        n_layers = model_facts(model).n_layers
        self.poolings = chosen_poolings(pooling)
        self.depths = chosen_depths(depths, n_layers)
        self._sink_position = sink_position
        table = PromptTable("depth", self.depths, trailing=("pooling", "dimension"))
        super().__init__(depth_points(n_layers, self.depths), table)

    def result(self) -> xr.Dataset:
        """``pooled_state`` (prompt, depth, pooling, dimension), in float32."""
        data = super().result()
        return data.assign_coords(pooling=list(self.poolings)) if data.data_vars else data

    def _fold(self, state: _SumsAndCounts | None, block: Tensor, rows: Rows, place: int) -> _SumsAndCounts:
        longest = int(rows.host_lengths.max())
        full_lengths(len(block), longest, rows.host_lengths, self._sink_position)  # has every prompt a sink?
        which = {
            "mean": rows.real,
            "last": rows.positions == rows.lengths[:, None] - 1,
            "mean_without_sink": rows.real & (rows.positions != self._sink_position),
        }
        # Every pooling is a mean over some of the rows; rows outside it, padding above all, are not touched.
        own = [which[pooling] for pooling in self.poolings]
        sums = torch.stack(
            [torch.where(at[..., None], block, 0.0).sum(1, dtype=torch.float64) for at in own], 1
        )
        counts = torch.stack([at.sum(1) for at in own], 1)
        return (sums, counts) if state is None else (state[0] + sums, state[1] + counts)

    def _values(self, state: _SumsAndCounts, rows: Rows, place: int) -> Mapping[str, Tensor]:
        return {"pooled_state": (state[0] / state[1][..., None]).float().cpu()}


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
