"""The converse of an ablation: the massive token stays, but no head may look at it."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext
from mcr_lens.hooks.interventions.base import Edit, Indices, Intervention, build, check_dose
from mcr_lens.hooks.interventions.positions import (
    Positions,
    PositionTuple,
    position_table,
    position_tuple,
    recorded,
)
from mcr_lens.models.backend import Hook, Model
from mcr_lens.validate import check_indices

__all__ = ["block_attention_to"]


def block_attention_to(
    positions: Positions,
    layers: Indices,
    heads: Indices | None = None,
    renormalise: bool = True,
    dose: float = 1.0,
    *,
    model: Model | None = None,
) -> list[Hook]:
    """Take ``dose`` of the attention that later tokens give to some positions.

    The queries after a position are edited; its own row and those before it stay. With ``renormalise``
    what is left of a row is scaled to the mass that the row had, so that the other keys get it in
    proportion; without it the head writes less. A row that has nothing left stays empty.

    Args:
        positions: one of every prompt, several of every prompt (``[0, 3]``), or a list for each prompt
            (``[[3], [5, 6]]``). Negative ones count from the last real token.
        layers: blocks, counted from 0.
        heads: query heads, counted from 0; ``None`` for all.
        dose: 0 (untouched) to 1 (all of it).
        model: check layers and heads against this model now, and follow its passes; else the engine checks.

    Raises:
        InputError: for layers, heads, positions or doses that cannot be; for a model whose architecture
            discards edits of its patterns.
    """
    call = "block_attention_to"
    check_dose(dose, call)
    places = position_tuple(positions, call)
    blocks = check_indices(f"{call}: layers", layers)
    blind = () if heads is None else check_indices(f"{call}: heads", heads)
    edit: Edit = partial(_block, positions=places, heads=blind, renormalise=renormalise, dose=dose)
    edits = {f"blocks.{layer}.attn.hook_pattern": edit for layer in blocks}
    settings = {
        "positions": recorded(places),
        "layers": list(blocks),
        "heads": list(blind) or "all",
        "renormalise": renormalise,
        "dose": dose,
    }
    return build(Intervention(call, settings, places, blind, "pattern_edits"), edits, model)


def _block(
    pattern: Float[Tensor, "batch head query key"],
    context: BatchContext,
    positions: PositionTuple,
    heads: tuple[int, ...],
    renormalise: bool,
    dose: float,
) -> Tensor | None:
    batch, n_heads, queries, keys = pattern.shape
    if heads and max(heads) >= n_heads:
        raise InputError(f"block_attention_to: head {max(heads)}: there are heads 0..{n_heads - 1}")
    prompts, found = position_table(positions, context, batch, queries, "block_attention_to")
    if dose == 0:
        return None
    at = context.columns(prompts, found).to(pattern.device)
    query = torch.arange(queries, device=pattern.device) + context.offset
    # A sliding window's cache has dropped the first keys.
    key = torch.arange(keys, device=pattern.device) + context.offset + queries - keys
    pairs = (query[:, None] > at[:, None, None]) & (key == at[:, None, None])
    blocked = torch.zeros(batch, n_heads, queries, keys, dtype=torch.bool, device=pattern.device)
    for prompt, pair in zip(prompts.tolist(), pairs, strict=True):
        blocked[prompt, list(heads) if heads else slice(None)] |= pair
    if not blocked.any():
        return None
    edited = torch.where(blocked, 0.0 if dose == 1 else pattern * (1 - dose), pattern)
    if renormalise:
        mass, left = pattern.float().sum(-1, keepdim=True), edited.float().sum(-1, keepdim=True)
        touched = blocked.any(-1, keepdim=True) & (left > 0)
        edited = torch.where(touched, edited * (mass / left).to(pattern.dtype), edited)
    return edited
