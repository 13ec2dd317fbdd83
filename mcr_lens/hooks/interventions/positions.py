"""What a position means: one of each prompt, found in the block of rows that a hook is handed."""

from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext
from mcr_lens.validate import is_whole

__all__ = ["PositionTuple", "Positions", "locate", "position_table", "position_tuple", "recorded"]

# One of every prompt, several of every prompt, or a list for each prompt.
Positions = int | Iterable[int] | Iterable[Iterable[int]]
PositionTuple = tuple[int, ...] | tuple[tuple[int, ...], ...]


def position_tuple(positions: Positions, call: str) -> PositionTuple:
    """A position of every prompt, several of every prompt, or (nested) a list for each prompt, as tuples.

    Raises:
        InputError: for anything but whole numbers, or none.
    """
    values = positions.tolist() if hasattr(positions, "tolist") else positions  # type: ignore[union-attr]
    values = (values,) if is_whole(values) else values
    if isinstance(values, Iterable) and not isinstance(values, str):
        flat = tuple(values)
        if flat and all(map(is_whole, flat)):
            return tuple(int(x) for x in flat)  # type: ignore[arg-type]
        if flat and all(isinstance(own, Iterable) and not isinstance(own, str) for own in flat):
            nested = tuple(tuple(own) for own in flat)  # type: ignore[arg-type]
            if all(is_whole(x) for own in nested for x in own):
                return tuple(tuple(int(x) for x in own) for own in nested)
    raise InputError(
        f"{call}: positions {positions!r}: use a whole number, several, or a list of them for each prompt"
    )


def locate(
    positions: PositionTuple | None, context: BatchContext, batch: int, rows: int, call: str
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"], Int[Tensor, "n"]]:
    """The places of a block that are edited, each once: ``(prompts, positions, rows)``, aligned.

    Raises:
        InputError: for a position that a prompt does not have.
    """
    if positions is None:
        prompts, at = torch.nonzero(context.real_rows(batch, rows), as_tuple=True)
        return prompts, context.positions(prompts, at + context.offset), at
    prompts, found = position_table(positions, context, batch, rows, call)
    at = context.columns(prompts, found) - context.offset
    inside = (at >= 0) & (at < rows)
    return prompts[inside], found[inside], at[inside]


def position_table(
    positions: PositionTuple, context: BatchContext, batch: int, rows: int, call: str
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Positions of each prompt, counted from its start: ``(prompts, positions)``, aligned, each once.

    Arguments and errors as in ``locate``; a position that is yet to come is left out.
    """
    pairs: list[tuple[int, int]] = []
    lengths = context.prompt_lengths(batch, rows).tolist()
    own = _of_each_prompt(positions, context, batch, call)
    for prompt, (length, wanted) in enumerate(zip(lengths, own, strict=True)):
        from_start = sorted({position + length if position < 0 else position for position in wanted})
        absent = [position for position in from_start if not 0 <= position < length]
        if absent and not context.grows:
            position = absent[0] - length if absent[0] < 0 else absent[0]
            raise InputError(
                f"{call}: position {position} in a prompt of {length} tokens: use 0..{length - 1}, or -1 for "
                "the last; where tokens are still to come, run inside `with mcr.generating(model):`"
            )
        pairs += [(prompt, position) for position in from_start if position not in absent]
    table = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _of_each_prompt(
    positions: PositionTuple, context: BatchContext, batch: int, call: str
) -> list[tuple[int, ...]]:
    if not isinstance(positions[0], tuple):
        return [positions] * batch  # type: ignore[list-item]
    prompts = range(batch) if context.prompts is None else context.prompts
    if max(prompts) >= len(positions) or (context.prompts is None and batch != len(positions)):
        raise InputError(
            f"{call}: positions for {len(positions)} prompts, {max(prompts) + 1} are run: give one list each"
        )
    return [positions[prompt] for prompt in prompts]  # type: ignore[misc]


def recorded(values: PositionTuple | None) -> object:
    """Positions or heads as a result records them."""
    if not values:
        return "all"
    if isinstance(values[0], tuple):
        return [list(own) for own in values]  # type: ignore[arg-type]
    return values[0] if len(values) == 1 else list(values)
