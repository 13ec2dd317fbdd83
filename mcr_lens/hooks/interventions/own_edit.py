"""A user's own edit, made as safe as ours: each position once, in chunks, ragged batches and generation."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import is_pattern
from mcr_lens.hooks.interventions.base import Indices, Intervention, Rows, edit_rows
from mcr_lens.hooks.interventions.positions import Positions, position_tuple, recorded
from mcr_lens.models.backend import Hook, Model
from mcr_lens.validate import check_indices

__all__ = ["intervention"]


def intervention(
    at: str,
    function: Callable[[Tensor], Tensor],
    positions: Positions | None = None,
    layers: Indices | None = None,
    *,
    model: Model | None = None,
) -> list[Hook]:
    """An edit of your own at positions of each prompt.

    A plain hook gets a block of rows: a chunk of a prompt, one new token, a padded batch. Its row 0 need not
    be position 0. This function finds the rows, and hands over those alone.

    Args:
        at: a hook point, such as ``"blocks.3.hook_resid_pre"``; with ``layers``, what follows ``blocks.N.``.
        function: takes the rows ``(n, ...)``, a copy, sorted by prompt and position, and returns as many. Of
            a pattern a row is a query, ``(n, head, key)``.
        positions: one of every prompt, several of every prompt (``[0, 3]``), or a list for each prompt
            (``[[3], [5, 6]]``). Negative ones count from the last real token. ``None``: all.
        layers: blocks, counted from 0, that ``at`` is edited in.
        model: check names and layers against this model now, and follow its passes; else the engine checks.

    Raises:
        InputError: for names, layers or positions that do not exist; when the function returns another shape.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> louder = mcr.intervention("hook_resid_pre", lambda rows: rows * 2, positions=0, layers=[1, 2])
        >>> [name for name, _ in louder]
        ['blocks.1.hook_resid_pre', 'blocks.2.hook_resid_pre']
    """
    call = "intervention"
    if not callable(function):
        raise InputError(f"{call}: function {function!r}: give a function of the rows at the positions")
    if not isinstance(at, str) or (layers is not None and at.startswith("blocks.")):
        raise InputError(
            f"{call}: at {at!r}: use a hook point, or with layers= what follows 'blocks.N.', such as "
            "'hook_resid_pre'"
        )
    blocks = None if layers is None else check_indices(f"{call}: layers", layers)
    names = [at] if blocks is None else [f"blocks.{layer}.{at}" for layer in blocks]
    place = None if positions is None else position_tuple(positions, call)
    settings = {
        "at": at,
        **({} if blocks is None else {"layers": list(blocks)}),
        "function": getattr(function, "__name__", type(function).__name__),
        "positions": recorded(place),
    }
    edits = {name: partial(_apply, name=name, function=function) for name in names}
    need = "pattern_edits" if any(map(is_pattern, names)) else None
    return edit_rows(Intervention(call, settings, place, need=need), edits, model)


def _apply(values: Tensor, rows: Rows, name: str, function: Callable[[Tensor], Tensor]) -> Tensor:
    shape = tuple(values.shape)
    edited = function(values)
    if not isinstance(edited, Tensor) or tuple(edited.shape) != shape:
        what = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
        raise InputError(
            f"intervention at {name}: the function returned {what} for rows of {shape}: return as many"
        )
    return edited
