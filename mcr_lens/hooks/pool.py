"""One vector a prompt and depth: what a probe or an embedding task reads of the residual stream."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import current_context
from mcr_lens.hooks.observe import depth_hook_name
from mcr_lens.hooks.prompt_table import PromptTable
from mcr_lens.metrics.rows import full_lengths, real_rows, rest_rows, row_positions
from mcr_lens.models import Hook, Model, model_facts
from mcr_lens.validate import is_whole

__all__ = ["POOLINGS", "PooledStates", "chosen_depths", "chosen_poolings"]

POOLINGS = ("mean", "last", "mean_without_sink")


class PooledStates:
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
        self._clear()

    def hooks(self) -> list[Hook]:
        """One hook a depth; what was read before is forgotten."""
        self._clear()
        return [
            (depth_hook_name(depth, self._n_layers), partial(self._read, place=place))
            for place, depth in enumerate(self.depths)
        ]

    def result(self) -> xr.Dataset:
        """``pooled_state`` (prompt, depth, pooling, dimension), in float32."""
        data = self._table.dataset().assign_coords(depth=list(self.depths))
        return data.assign_coords(pooling=list(self.poolings)) if data.data_vars else data

    def _clear(self) -> None:
        self._table = PromptTable("depth", len(self.depths), trailing=("pooling", "dimension"))
        self._sums: dict[int, Float[Tensor, "batch pooling d_model"]] = {}
        self._counts: dict[int, Int[Tensor, "batch pooling"]] = {}

    def _read(self, residual: Float[Tensor, "batch rows d_model"], hook: Any, place: int) -> None:
        context = current_context()
        batch, rows, _ = residual.shape
        lengths = context.prompt_lengths(batch, rows)
        lengths = full_lengths(batch, int(lengths.max()), lengths, self._sink_position)
        pooled = self._rows_of(lengths, rows, context.offset, residual.device)
        # Every pooling is a mean over some of the rows; rows outside it, padding above all, are not touched.
        sums = [torch.where(kept[..., None], residual, 0.0).sum(1, dtype=torch.float64) for kept in pooled]
        self._add(place, torch.stack(sums, 1), torch.stack([kept.sum(1) for kept in pooled], 1))
        if context.ends_with(rows):
            mean = self._sums.pop(place) / self._counts.pop(place)[..., None]
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

    def _add(self, place: int, sums: Tensor, counts: Tensor) -> None:
        """Add a block to those before it; the first block of a batch starts anew."""
        if current_context().offset > 0:
            sums, counts = sums + self._sums[place], counts + self._counts[place]
        self._sums[place], self._counts[place] = sums, counts


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
    places = range(n_layers + 1)
    listed = list(depths) if isinstance(depths, Iterable) else [depths]
    wrong = [x for x in listed if not is_whole(x, -len(places), len(places))]
    if not listed or wrong or not isinstance(depths, Iterable):
        raise InputError(
            f"depths {depths}: use several whole numbers from 0 to {n_layers}, or from -1 down for the last"
        )
    return tuple(sorted({places[int(depth)] for depth in listed}))
