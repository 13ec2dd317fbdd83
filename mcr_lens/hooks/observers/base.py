"""What an observer is, what the standard ones share, and the table that takes their numbers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import xarray as xr
from torch import Tensor

from mcr_lens.hooks.context import is_pattern
from mcr_lens.hooks.observers.rows import Rows
from mcr_lens.models import Hook, Model
from mcr_lens.models.passes import is_second_call

__all__ = ["BlockObserver", "Observer", "PromptTable", "depth_hook_name", "depth_points"]

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


def depth_points(n_layers: int, depths: Iterable[int] | None = None) -> dict[int, str]:
    """The hook points of some depths, or of all of 0..L."""
    depths = range(n_layers + 1) if depths is None else depths
    return {depth: depth_hook_name(depth, n_layers) for depth in depths}


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
        places: int | Iterable[int],
        trailing: Sequence[str] = (),
        others: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.axis = axis
        self.places = list(range(places)) if isinstance(places, int) else list(places)
        self.trailing = tuple(trailing)
        self.others = dict(others or {})
        self._pieces: dict[str, dict[int, list[tuple[np.ndarray, Tensor]]]] = {}
        self.clear()

    def clear(self) -> None:
        """Forget every value."""
        self._pieces = defaultdict(lambda: defaultdict(list))

    def add(self, place: int, values: Mapping[str, Tensor], prompts: Sequence[int] | None = None) -> None:
        """Add values ``(batch, ...)`` at one place of the axis.

        ``prompts`` tells whose they are; without it they are those of the next prompts.
        """
        for name, tensor in values.items():
            pieces = self._pieces[name][place]
            first = sum(len(rows) for rows, _ in pieces) if prompts is None else 0
            rows = range(first, first + len(tensor)) if prompts is None else prompts
            # A copy: a view would keep the larger tensor alive that it was cut from.
            pieces.append((np.asarray(rows, dtype=np.int64), tensor.detach().clone()))

    def dataset(self) -> xr.Dataset:
        """A variable a name, with dimensions ``(prompt, axis, *trailing)``, in prompt order.

        Trailing dimensions are as long as the longest value; places nobody wrote to are NaN (-1 for
        integers).
        """
        rows = [rows for places in self._pieces.values() for pieces in places.values() for rows, _ in pieces]
        prompts = np.unique(np.concatenate([np.array([], dtype=np.int64), *rows]))
        variables = {name: self._variable(name, prompts) for name in self._pieces}
        return xr.Dataset(variables, coords={"prompt": prompts, self.axis: self.places})

    def _variable(self, name: str, prompts: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        pieces = [
            (np.searchsorted(prompts, rows), self.places.index(place), tensor.cpu().numpy())
            for place, at_place in self._pieces[name].items()
            for rows, tensor in at_place
        ]
        sample = pieces[0][2]
        longest = np.max([new.shape[1:] for _, _, new in pieces], axis=0).astype(int)
        missing = -1 if np.issubdtype(sample.dtype, np.integer) else np.nan
        values = np.full((len(prompts), len(self.places), *longest), missing, dtype=sample.dtype)
        for rows, place, new in pieces:
            at = (rows, place, *(slice(size) for size in new.shape[1:]))
            # NaN is no news: in chunks a value of one token comes once.
            values[at] = np.where(np.isnan(new), values[at], new)
        dims = ("prompt", self.axis, *self.others.get(name, self.trailing)[: sample.ndim - 1])
        return dims, values


class BlockObserver(Generic[State]):
    """An observer that reads hook points block by block, and has one table of numbers at the end.

    A subclass says how a state of the prompts of a batch grows by a block (``_fold``) and what is known when
    all of their rows have come (``_values``); or it takes the blocks itself (``_take``).

    Args:
        points: the hook point of each place of the table.
    """

    def __init__(self, points: Mapping[Any, str], table: PromptTable) -> None:
        self._points, self._table = points, table
        self._states: dict[int, State] = {}

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was read before is forgotten."""
        self._table.clear()
        self._states = {}

    def hooks(self) -> list[Hook]:
        """One hook for each point."""
        return [(name, partial(self._read, name=name, place=i)) for i, name in self._points.items()]

    def result(self) -> xr.Dataset:
        """Every variable, in the order of the prompts."""
        return self._table.dataset()

    def _read(self, block: Tensor, hook: Any, name: str, place: Any) -> None:
        if not is_second_call(hook):
            self._take(block.detach(), Rows(block, hook, 2 if is_pattern(name) else 1), place)

    def _take(self, block: Tensor, rows: Rows, place: Any) -> None:
        state = self._fold(None if rows.context.offset == 0 else self._states.pop(place), block, rows, place)
        if rows.is_end:
            self._finish(state, rows, place)
        else:
            self._states[place] = state

    def _fold(self, state: State | None, block: Tensor, rows: Rows, place: int) -> State:
        """The state with one more block; ``None``: it is the first one."""
        raise NotImplementedError

    def _finish(self, state: State, rows: Rows, place: int) -> None:
        self._table.add(place, self._values(state, rows, place), rows.context.prompts)

    def _values(self, state: State, rows: Rows, place: int) -> Mapping[str, Tensor]:
        """What the state gives when the batch is over, ``(batch, ...)`` by name."""
        raise NotImplementedError
