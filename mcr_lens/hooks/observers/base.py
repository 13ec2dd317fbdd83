"""What an observer is, what the standard ones share, and the table that takes their numbers."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext, context_at, current_context
from mcr_lens.models import Hook, Model

__all__ = ["BlockObserver", "Observer", "PromptTable", "block_context", "depth_hook_name", "depth_hooks"]

State = TypeVar("State")


@runtime_checkable
class Observer(Protocol):
    """What ``measure`` needs of an observer.

    Where an observer has a method ``begin(model)`` too, ``measure`` calls it first: a new measurement of
    this model begins, and what was read before is forgotten. Nothing else forgets anything.
    """

    def hooks(self) -> list[Hook]:
        """Hooks that read and return ``None``."""
        ...

    def result(self) -> xr.Dataset:
        """What was read, with a ``prompt`` dimension."""
        ...


def depth_hook_name(depth: int, n_layers: int) -> str:
    """The hook point where the residual stream of a depth is read.

    Every depth but the last is read where the next block takes it in, so that a user's edit of
    ``hook_resid_pre`` is seen.
    """
    if depth < n_layers:
        return f"blocks.{depth}.hook_resid_pre"
    return f"blocks.{n_layers - 1}.hook_resid_post"


def depth_hooks(read: Callable[..., None], depths: Sequence[int], n_layers: int) -> list[Hook]:
    """``read(residual, hook, depth)`` at each of these depths."""
    return [(depth_hook_name(depth, n_layers), partial(read, place=depth)) for depth in depths]


def block_context(hook: Any) -> BatchContext:
    """Where the block stands that an observer is given.

    Raises:
        InputError: in a pass outside the engine that is padded or goes on from a cache: whose rows these
            are, and when their prompts end, is not known there.
    """
    context = current_context()
    here = context_at(hook) if context.prompts is None else None
    if here is not None and here != context and (here.mask is not None or here.offset > 0):
        raise InputError(
            "an observer meets a padded batch, or a block that goes on from a KV cache: use mcr.measure, "
            "which knows where each prompt begins and ends"
        )
    return context


class PromptTable:
    """Collects per-prompt values along one axis of the model, in any order of the prompts.

    Args:
        axis: name of the axis the hooks sit on, ``"depth"`` or ``"layer"``.
        places: their labels on it, or how many there are: 0, 1, ...
        trailing: names of the dimensions that a value may have beside its prompt.
        others: the same by variable, for those whose dimensions have other names.

    Example:
        >>> import torch
        >>> table = PromptTable("depth", 2)
        >>> table.add(0, {"sink_norm": torch.tensor([1.0, 2.0])})
        >>> table.add(1, {"sink_norm": torch.tensor([3.0, 4.0])})
        >>> table.dataset().sink_norm.sel(depth=1).values
        array([3., 4.], dtype=float32)
    """

    def __init__(
        self,
        axis: str,
        places: int | Sequence[int],
        trailing: Sequence[str] = (),
        others: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.axis = axis
        self.places = list(range(places)) if isinstance(places, int) else list(places)
        self.trailing = tuple(trailing)
        self.others = dict(others or {})
        self._pieces: dict[str, dict[int, list[tuple[np.ndarray, Tensor]]]] = defaultdict(dict)

    def add(self, place: int, values: Mapping[str, Tensor], prompts: Sequence[int] | None = None) -> None:
        """Add values ``(batch, ...)`` at one place of the axis.

        ``prompts`` tells whose they are; without it they are those of the next prompts.
        """
        for name, tensor in values.items():
            pieces = self._pieces[name].setdefault(place, [])
            if prompts is None:
                first = sum(len(rows) for rows, _ in pieces)
                rows: Sequence[int] = range(first, first + len(tensor))
            else:
                rows = prompts
            # A copy: a view would keep the larger tensor alive that it was cut from.
            pieces.append((np.asarray(rows, dtype=np.int64), tensor.detach().clone()))

    def emptied(self) -> "PromptTable":
        """One like this without values."""
        return PromptTable(self.axis, self.places, self.trailing, self.others)

    def dataset(self) -> xr.Dataset:
        """A variable a name, with dimensions ``(prompt, axis, *trailing)``, in prompt order.

        Trailing dimensions are as long as the longest value; places nobody wrote to are NaN (-1 for
        integers).
        """
        blocks = [rows for places in self._pieces.values() for p in places.values() for rows, _ in p]
        prompts = np.unique(np.concatenate(blocks)) if blocks else np.array([], dtype=np.int64)
        variables = {name: self._variable(name, prompts) for name in self._pieces}
        return xr.Dataset(variables, coords={"prompt": prompts, self.axis: self.places})

    def _variable(self, name: str, prompts: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        places = self._pieces[name]
        tensors = [tensor for pieces in places.values() for _, tensor in pieces]
        sample = tensors[0].cpu().numpy()
        dims = ("prompt", self.axis, *self.others.get(name, self.trailing)[: sample.ndim - 1])
        missing = -1 if np.issubdtype(sample.dtype, np.integer) else np.nan
        longest = np.max([tensor.shape[1:] for tensor in tensors], axis=0)
        shape = (len(prompts), len(self.places), *longest.astype(int))
        values = np.full(shape, missing, dtype=sample.dtype)
        for place, pieces in places.items():
            for rows, tensor in pieces:
                inside = tuple(slice(size) for size in tensor.shape[1:])
                at = (np.searchsorted(prompts, rows), self.places.index(place), *inside)
                new = tensor.cpu().numpy()
                # NaN is no news: in chunks a value of one token comes once.
                values[at] = np.where(np.isnan(new), values[at], new)
        return dims, values


class BlockObserver(Generic[State]):
    """An observer that takes in a batch block by block: a state for each hook point, and a table at the end.

    A subclass says how a state is made, updated and read; where a block stands is found out here.
    """

    _rows_axis = 1

    def __init__(self, table: PromptTable) -> None:
        self._table = table
        self._states: dict[int, State] = {}

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was read before is forgotten."""
        self._table = self._table.emptied()
        self._states = {}

    def result(self) -> xr.Dataset:
        """Every variable, in the order of the prompts."""
        return self._table.dataset()

    def _read(self, block: Tensor, hook: Any, place: int) -> None:
        context = block_context(hook)
        rows = block.shape[self._rows_axis]
        if context.offset == 0:
            self._states[place] = self._new_state(place, context.prompt_lengths(len(block), rows))
        self._update(self._states[place], block.detach(), context.offset)
        if context.ends_with(rows):
            self._finish(place, self._states.pop(place), context)

    def _new_state(self, place: int, lengths: Int[Tensor, "batch"]) -> State:
        """The state of a batch whose first block has come."""
        raise NotImplementedError

    def _update(self, state: State, block: Tensor, offset: int) -> None:
        """Take in the rows at positions ``offset, offset + 1, ...``."""
        raise NotImplementedError

    def _finish(self, place: int, state: State, context: BatchContext) -> None:
        """The batch is over: to the table with what the state gives."""
        raise NotImplementedError
