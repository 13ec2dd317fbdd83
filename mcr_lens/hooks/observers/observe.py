"""``observe``: an observer made of one function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import xarray as xr
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.interventions import check_hooks
from mcr_lens.hooks.observers.base import BlockObserver, PromptTable, depth_points
from mcr_lens.hooks.observers.rows import Rows
from mcr_lens.models import Hook, Model, model_facts

__all__ = ["FunctionObserver", "observe"]

Read = Callable[[Tensor, Rows], Mapping[str, Tensor]]


def observe(
    function: Read,
    at: str = "resid",
    axis: Literal["depth", "layer"] | None = None,
    dims: Sequence[str] = (),
    *,
    chunks: Literal["once", "sum", "max"] = "once",
    model: Model | None = None,
) -> "FunctionObserver":
    """An observer that calls ``function(block, rows)`` at every depth, or at a hook point of every layer.

    The block is the tensor of the hook point, ``(batch, rows, ...)`` (attention patterns:
    ``(batch, head, rows, key)``), in float32 or better, with NaN in the rows that are padding. ``rows`` says
    what they are (``mcr_lens.hooks.Rows``): ``rows.last(block)`` is each prompt's last token,
    ``rows.at(block, 3)`` another one, ``rows.mean(block)`` the mean over its tokens. For all else there are
    ``rows.real``, ``rows.positions``, ``rows.lengths`` and ``rows.prompts``. The function returns
    ``{name: values}`` with one row for each prompt of the batch, in the order of the block. The result has
    them in the order of the prompts.

    Args:
        function: reads a block; it must not edit it.
        at: ``"resid"``: the residual stream at every depth 0..L. A point that blocks have, such as
            ``"hook_mlp_out"`` or ``"attn.hook_pattern"``: that point of every layer. A whole name, such as
            ``"blocks.3.hook_mlp_out"`` or ``"ln_final.hook_normalized"``: that one.
        axis: name of that dimension, which ``at`` says: ``"depth"`` for ``"resid"``, else ``"layer"``.
        dims: names of the dimensions of a value behind its prompt: ``("head",)`` for one number a head. With
            ``"position"`` among them, that dimension is the block's rows: a value for each token. A value may
            lack the last of them.
        chunks: how the values of a prompt are put together when ``chunk=`` cuts it. ``"once"``: one chunk
            has the value, such as that of the last token, and the others give NaN. ``"sum"``, ``"max"``: of
            all chunks, element by element. A mean is a sum and a count: ``{"sum": rows.total(x), "n":
            rows.real.sum(1)}``.
        model: needed where ``hooks()`` is used without ``measure`` or ``profile``.

    Raises:
        InputError: when it is measured: for a point that the model does not have; for values of another
            shape; for a function that edits the block; with ``chunks="once"``, for a prompt that has a value
            in two chunks.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> prompts = mcr.load_prompts(mcr.prompts.word_problems(4), model)
        >>> norms = mcr.observe(lambda block, rows: {"last_norm": rows.last(block).norm(dim=-1)})
        >>> data = mcr.measure(model, prompts, [norms], progress=False)
        >>> data.last_norm.dims, data.last_norm.shape == (4, model.cfg.n_layers + 1)
        (('prompt', 'depth'), True)
    """
    if not callable(function):
        raise InputError(f"observe: {function!r} is no function: give function(block, rows)")
    dims = (dims,) if isinstance(dims, str) else tuple(dims)
    own = "depth" if at == "resid" else "layer"
    if axis not in (None, own):
        raise InputError(f"observe: axis {axis!r}: at={at!r} has the axis {own!r}; leave axis out")
    if taken := {"prompt", own} & set(dims):
        raise InputError(f"observe: dims {dims}: {min(taken)!r} is there already; name those behind it alone")
    if chunks not in ("once", "sum", "max"):
        raise InputError(f"observe: chunks {chunks!r}: use 'once', 'sum' or 'max'")
    observer = FunctionObserver(function, at, dims, chunks)
    if model is not None:
        observer.begin(model)
    return observer


class FunctionObserver(BlockObserver[dict[str, Tensor]]):
    """What ``observe`` returns."""

    def __init__(self, function: Read, at: str, dims: tuple[str, ...], chunks: str) -> None:
        self._axis = "depth" if at == "resid" else "layer"
        super().__init__({}, PromptTable(self._axis, ()))
        self._function, self._at, self._dims, self._chunks = function, at, dims, chunks

    def begin(self, model: Model) -> None:
        """A new measurement of this model begins: what was read before is forgotten."""
        self._points = self._points_of(model)
        super().begin(model)
        self._table = PromptTable(self._axis, self._points, self._dims)

    def hooks(self) -> list[Hook]:
        """One hook for each depth or layer."""
        if not self._points:
            raise InputError("observe: of which model? Give model=, or use measure or profile")
        return super().hooks()

    def result(self) -> xr.Dataset:
        """The function's values, ``(prompt, depth or layer, *dims)``."""
        data = super().result()
        # A point outside the blocks belongs to no layer.
        outside = self._at in self._points.values() and not self._at.startswith("blocks.")
        return data.isel(layer=0, drop=True) if outside else data

    def _points_of(self, model: Model) -> dict[int, str]:
        """Hook points by depth or layer."""
        n_layers = model_facts(model).n_layers
        if self._at == "resid":
            return depth_points(n_layers)
        if self._at in model.hook_dict:
            number = self._at.removeprefix("blocks.").partition(".")[0]
            return {int(number) if number.isdecimal() else 0: self._at}
        names = {layer: f"blocks.{layer}.{self._at}" for layer in range(n_layers)}
        points = {layer: name for layer, name in names.items() if name in model.hook_dict}
        if not points:
            whole = self._at if self._at.startswith("blocks.") else names[0]
            check_hooks(model, [(whole, lambda block, hook: None)])  # it says which names are near
        return points

    def _fold(
        self, state: dict[str, Tensor] | None, block: Tensor, rows: Rows, place: int
    ) -> dict[str, Tensor]:
        version = block._version
        values = self._function(rows.without_padding(block), rows)
        if block._version != version:
            raise InputError(f"observe: {self._name} edits its block: write x = x - y, not x -= y")
        self._check(values, rows)
        values = {name: value.detach() for name, value in values.items()}
        here = rows.real.any(1)
        earlier = state or {}
        joined = {
            name: self._joined(name, earlier[name], values[name], here) for name in earlier.keys() & values
        }
        return earlier | values | joined

    def _values(self, state: dict[str, Tensor], rows: Rows, place: int) -> Mapping[str, Tensor]:
        return {name: _numbers(value) for name, value in state.items()}

    @property
    def _name(self) -> str:
        return getattr(self._function, "__name__", type(self._function).__name__)

    def _check(self, values: Any, rows: Rows) -> None:
        """Refuse what is not one row for each prompt."""
        if not isinstance(values, Mapping) or not all(isinstance(each, Tensor) for each in values.values()):
            raise InputError(
                f"observe: {self._name} returns {type(values).__name__}: return {{name: tensor}}"
            )
        batch, n_rows = rows.real.shape
        dims, sizes = ("prompt", *self._dims), {"prompt": batch, "position": n_rows}
        for name, value in values.items():
            shape = tuple(value.shape)
            fits = all(sizes.setdefault(dim, size) == size for dim, size in zip(dims, shape, strict=False))
            if not 1 <= len(shape) <= len(dims) or not fits:
                wanted = ", ".join(str(sizes.get(dim, dim)) for dim in dims)
                raise InputError(
                    f"observe: {name!r} has shape {shape} for {batch} prompts and dims={self._dims}: return "
                    f"({wanted}), or name the dimensions behind the prompt in dims="
                )

    def _joined(self, name: str, before: Tensor, value: Tensor, here: Tensor) -> Tensor:
        """The values of a batch after one more block; ``here``: the prompts that have tokens in it."""
        if "position" in self._dims[: value.ndim - 1]:
            return torch.cat([before, value], 1 + self._dims.index("position"))
        here = here.reshape(-1, *[1] * (value.ndim - 1))
        if self._chunks == "sum":
            return torch.where(here, before + value, before)
        if self._chunks == "max":
            return torch.where(here, torch.maximum(before, value), before)
        has, had = here & _any_number(value), _any_number(before)
        if bool((has & had).any()):
            raise InputError(
                f"observe: {name!r} has a value of one prompt in two chunks: leave out chunk=, "
                "give it for one token (rows.last, rows.at), or say with chunks='sum' or 'max' how they add"
            )
        return torch.where(has, value, before)


def _any_number(values: Tensor) -> Tensor:
    """Of each prompt, whether any of its values is a number, ``(batch, 1, ...)``."""
    return (~values.isnan()).reshape(len(values), -1).any(1).reshape(-1, *[1] * (values.ndim - 1))


def _numbers(values: Tensor) -> Tensor:
    """What NumPy has a type for."""
    if values.is_floating_point():
        return values.to(torch.promote_types(values.dtype, torch.float32))
    return values.long() if values.dtype == torch.bool else values
