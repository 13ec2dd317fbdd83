"""Where observers leave their numbers: one row a prompt, in any order, to a labelled dataset."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from torch import Tensor

__all__ = ["PromptTable"]


class PromptTable:
    """Collects per-prompt values along one axis of the model.

    Args:
        axis: name of the axis the hooks sit on, ``"depth"`` or ``"layer"``.
        size: its length.
        trailing: names of the dimensions that a value may have beside its prompt.

    Example:
        >>> import torch
        >>> table = PromptTable("depth", 2)
        >>> table.add(0, {"sink_norm": torch.tensor([1.0, 2.0])})
        >>> table.add(1, {"sink_norm": torch.tensor([3.0, 4.0])})
        >>> table.dataset().sink_norm.sel(depth=1).values
        array([3., 4.], dtype=float32)
    """

    def __init__(self, axis: str, size: int, trailing: Sequence[str] = ()) -> None:
        self.axis = axis
        self.size = size
        self.trailing = tuple(trailing)
        self._pieces: dict[str, dict[int, list[tuple[np.ndarray, Tensor]]]] = defaultdict(dict)

    def add(self, index: int, values: Mapping[str, Tensor], prompts: Sequence[int] | None = None) -> None:
        """Add values ``(batch, ...)`` at one place of the axis.

        ``prompts`` tells whose they are; without it they are those of the next prompts.
        """
        for name, tensor in values.items():
            pieces = self._pieces[name].setdefault(index, [])
            if prompts is None:
                first = sum(len(rows) for rows, _ in pieces)
                rows: Sequence[int] = range(first, first + len(tensor))
            else:
                rows = prompts
            # A copy: a view would keep the larger tensor alive that it was cut from.
            pieces.append((np.asarray(rows, dtype=np.int64), tensor.detach().clone()))

    def dataset(self) -> xr.Dataset:
        """A variable a name, with dimensions ``(prompt, axis, *trailing)``, in prompt order.

        Trailing dimensions are as long as the longest value; places nobody wrote to are NaN (-1 for
        integers).
        """
        blocks = [rows for places in self._pieces.values() for p in places.values() for rows, _ in p]
        prompts = np.unique(np.concatenate(blocks)) if blocks else np.array([], dtype=np.int64)
        variables = {name: self._variable(places, prompts) for name, places in self._pieces.items()}
        return xr.Dataset(variables, coords={"prompt": prompts, self.axis: np.arange(self.size)})

    def _variable(
        self, places: Mapping[int, list[tuple[np.ndarray, Tensor]]], prompts: np.ndarray
    ) -> tuple[tuple[str, ...], np.ndarray]:
        tensors = [tensor for pieces in places.values() for _, tensor in pieces]
        sample = tensors[0].cpu().numpy()
        dims = ("prompt", self.axis, *self.trailing[: sample.ndim - 1])
        missing = -1 if np.issubdtype(sample.dtype, np.integer) else np.nan
        longest = np.max([tensor.shape[1:] for tensor in tensors], axis=0)
        values = np.full((len(prompts), self.size, *longest.astype(int)), missing, dtype=sample.dtype)
        for index, pieces in places.items():
            for rows, tensor in pieces:
                inside = tuple(slice(size) for size in tensor.shape[1:])
                values[(np.searchsorted(prompts, rows), index, *inside)] = tensor.cpu().numpy()
        return dims, values
