"""The converse of an ablation: the massive token stays, but no head may look at it."""

from collections.abc import Iterable
from functools import partial
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext
from mcr_lens.hooks.intervene import Edit, Intervention, indices, intervene
from mcr_lens.hooks.positions import Position, key_positions
from mcr_lens.models.backend import Hook, Model

__all__ = ["block_attention_to"]


def block_attention_to(
    position: Position,
    layers: int | Iterable[int],
    heads: int | Iterable[int] | None = None,
    renormalise: bool = True,
    dose: float = 1.0,
    *,
    model: Model | None = None,
) -> list[Hook]:
    """Take ``dose`` of the attention that later tokens give to one position.

    The queries after the position are edited; its own row and those before it stay. With ``renormalise``
    what is left of a row is scaled to the mass that the row had, so that the other keys get it in
    proportion; without it the head writes less. A row that has nothing left stays empty.

    Args:
        position: of the prompt; negative counts from its last real token; a sequence gives one a prompt.
        layers: blocks, counted from 0.
        heads: query heads, counted from 0; ``None`` for all.
        dose: 0 (untouched) to 1 (all of it).
        model: check layers and heads against this model now; else when the list is attached.

    Raises:
        InputError: for layers, heads, positions or doses that cannot be; for a model whose architecture
            discards edits of its patterns.
    """
    call = "block_attention_to"
    if not isinstance(dose, Real) or not 0 <= dose <= 1:
        raise InputError(f"{call}: dose {dose!r}: use 0 (untouched) to 1 (all of it)")
    listed = indices(layers, "layer", call)
    chosen = () if heads is None else indices(heads, "head", call)
    edit: Edit = partial(_block, position=position, heads=chosen, renormalise=renormalise, dose=dose)
    edits = {f"blocks.{layer}.attn.hook_pattern": edit for layer in listed}
    settings = {
        "position": position,
        "layers": list(listed),
        "heads": list(chosen) or "all",
        "renormalise": renormalise,
        "dose": dose,
    }
    made = Intervention(call, settings, tuple(edits), (position,), chosen, edits_pattern=True)
    return intervene(made, edits, model)


def _block(
    pattern: Float[Tensor, "batch head query key"],
    context: BatchContext,
    position: Position,
    heads: tuple[int, ...],
    renormalise: bool,
    dose: float,
) -> Tensor | None:
    batch, n_heads, queries, keys = pattern.shape
    if heads and max(heads) >= n_heads:
        raise InputError(f"block_attention_to: head {max(heads)}: there are heads 0..{n_heads - 1}")
    # A sliding window's cache has dropped the first keys.
    first_key = context.offset + queries - keys
    at = key_positions(position, context, batch, queries, "block_attention_to").to(pattern.device)
    if dose == 0:
        return None
    query = torch.arange(queries, device=pattern.device) + context.offset
    key = torch.arange(keys, device=pattern.device) + first_key
    blocked = (query[:, None] > at[:, None, None]) & (key == at[:, None, None])
    chosen = torch.zeros(n_heads, dtype=torch.bool, device=pattern.device)
    chosen[list(heads) if heads else slice(None)] = True
    blocked = blocked[:, None] & chosen[:, None, None]
    if not blocked.any():
        return None
    edited = torch.where(blocked, 0.0 if dose == 1 else pattern * (1 - dose), pattern)
    if renormalise:
        mass, left = pattern.float().sum(-1, keepdim=True), edited.float().sum(-1, keepdim=True)
        touched = blocked.any(-1, keepdim=True) & (left > 0)
        edited = torch.where(touched, edited * (mass / left).to(pattern.dtype), edited)
    return edited
