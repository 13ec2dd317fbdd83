"""Putting other activations in: those of another run, of the mean prompt, of a random one.

The source is a tensor, or any mapping from hook names to tensors: what ``mcr_lens.record`` returns, or
TransformerLens's own ``ActivationCache``. Its rows are the prompts that are measured, in their order, or one
row for all of them; a position in it is a position in the prompt, in every chunk and batch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext
from mcr_lens.hooks.donor import Donor
from mcr_lens.hooks.intervene import Intervention, indices, intervene
from mcr_lens.hooks.positions import located
from mcr_lens.hooks.record import Activations, is_pattern
from mcr_lens.hooks.sequence import is_growing
from mcr_lens.models.backend import Hook, Model
from mcr_lens.validate import is_whole

__all__ = ["mean_ablate", "patch_activation", "resample_ablate"]

Source = Tensor | Mapping[str, Tensor]
Positions = int | Iterable[int] | None


def patch_activation(
    hook_name: str,
    source: Source,
    positions: Positions = None,
    heads: int | Iterable[int] | None = None,
    *,
    model: Model | None = None,
) -> list[Hook]:
    """Replace the activation at a hook point by that of another run, position by position.

    Args:
        hook_name: such as ``"blocks.3.hook_resid_pre"`` or ``"blocks.3.attn.hook_z"``.
        source: a tensor ``(prompt, pos, ...)`` (patterns and scores ``(prompt, head, query, key)``), or a
            mapping that has one under ``hook_name``. One row serves all prompts.
        positions: of the prompt, negative from its last real token (for a pattern: of the query);
            ``None`` for all that the prompt has.
        heads: of an activation that has heads; ``None`` for all.
        model: check the name and heads against this model now; else when the list is attached.

    Raises:
        InputError: for a name, shape, position or head that source or model do not have.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> clean = mcr.Prompts.from_texts(["Ann has 5 pens."], model)
        >>> name = "blocks.1.hook_mlp_out"
        >>> swap = mcr.patch_activation(name, mcr.record(model, clean, [name]), positions=0)
        >>> [name for name, _ in swap]
        ['blocks.0.attn.hook_pattern', 'blocks.1.hook_mlp_out']
    """
    donor = Donor.of(source, hook_name, "patch_activation")
    return _replace("patch_activation", hook_name, donor, positions, heads, model, {})


def mean_ablate(
    hook_name: str,
    reference: Activations,
    positions: Positions = None,
    heads: int | Iterable[int] | None = None,
    *,
    over: Literal["prompts", "tokens"] = "prompts",
    model: Model | None = None,
) -> list[Hook]:
    """Replace an activation by its mean over reference prompts.

    Args:
        reference: from ``mcr_lens.record(model, prompts, [hook_name])``.
        over: ``"prompts"``: a mean for every position, over the prompts that have it; ``"tokens"``: one mean
            over all real tokens. The first token of a model with sinks is like no other, so the two differ.

    Other arguments and errors as in ``patch_activation``.
    """
    if over not in ("prompts", "tokens"):
        raise InputError(f"mean_ablate: over={over!r}: use 'prompts' or 'tokens'")
    donor = Donor.of(reference, hook_name, "mean_ablate")
    donor = donor.mean_token() if over == "tokens" else donor.mean_prompt()
    return _replace("mean_ablate", hook_name, donor, positions, heads, model, {"over": over})


def resample_ablate(
    hook_name: str,
    reference: Activations,
    positions: Positions = None,
    heads: int | Iterable[int] | None = None,
    *,
    seed: int = 0,
    model: Model | None = None,
) -> list[Hook]:
    """Replace each prompt's activation by that of a reference prompt drawn at random.

    The draw is a function of the seed and the prompt's number, whatever the batch; it is made among the
    reference prompts that are long enough. Other arguments and errors as in ``mean_ablate``.
    """
    if not is_whole(seed, 0):
        raise InputError(f"resample_ablate: seed {seed!r}: use a whole number, 0 or more")
    donor = replace(Donor.of(reference, hook_name, "resample_ablate"), seed=seed)
    return _replace("resample_ablate", hook_name, donor, positions, heads, model, {"seed": seed})


def _replace(
    call: str,
    hook_name: str,
    donor: Donor,
    positions: Positions,
    heads: int | Iterable[int] | None,
    model: Model | None,
    settings: Mapping[str, Any],
) -> list[Hook]:
    listed = None if positions is None else _positions(positions, call)
    chosen = () if heads is None else indices(heads, "head", call)
    _check_heads(donor, hook_name, chosen, call)
    edit = partial(_put, hook_name=hook_name, donor=donor, positions=listed, heads=chosen, call=call)
    everything = {
        "hook_name": hook_name,
        "positions": "all" if listed is None else list(listed),
        "heads": list(chosen) or "all",
        **settings,
    }
    made = Intervention(
        call, everything, (hook_name,), listed or (), chosen, edits_pattern=is_pattern(hook_name)
    )
    return intervene(made, {hook_name: edit}, model)


def _put(
    activation: Float[Tensor, "batch ..."],
    context: BatchContext,
    hook_name: str,
    donor: Donor,
    positions: tuple[int, ...] | None,
    heads: tuple[int, ...],
    call: str,
) -> Tensor | None:
    of_pattern = is_pattern(hook_name)
    batch, rows = len(activation), activation.shape[2 if of_pattern else 1]
    _check_shapes(activation, donor, of_pattern, call)
    if positions is None:
        prompts, at = _all_rows(context, batch, rows)
    else:
        found = [located(position, context, batch, rows, call) for position in positions]
        prompts, at = (torch.cat(parts) for parts in zip(*found, strict=True))
    needed = context.prompt_lengths(batch, rows)
    if positions is not None and min(positions) >= 0:
        needed = torch.full_like(needed, max(positions) + 1)
    whose, where = donor.rows(context, needed, call)[prompts], at + context.offset
    there = donor.has(whose, where)
    # In a sequence that grows past the source the new tokens are their own.
    grows = is_growing() or (context.lengths is None and context.offset > 0)
    if not there.all() and not grows:
        first = int((~there).nonzero()[0])
        raise InputError(
            f"{call}: position {int(where[first])} is beyond the source, whose prompt "
            f"{int(whose[first])} has {donor.n_tokens(int(whose[first]))} tokens there: give positions=, "
            "or a source as long as the prompts; where the sequence grows, as under generate without a "
            "cache, wrap the call in mcr_lens.hooks.growing()"
        )
    prompts, at, whose, where = (part[there] for part in (prompts, at, whose, where))
    if not len(prompts):
        return None
    edited = activation.clone()
    if of_pattern:
        first_key = context.offset + rows - activation.shape[-1]
        new = donor.pattern_rows(whose, where, first_key, activation[prompts, :, at])
        which = list(heads) if heads else list(range(activation.shape[1]))
        edited[prompts[:, None], torch.tensor(which), at[:, None]] = new[:, which]
    elif heads:
        edited[prompts[:, None], at[:, None], torch.tensor(heads)] = donor.values(whose, where)[
            :, list(heads)
        ].to(edited)
    else:
        edited[prompts, at] = donor.values(whose, where).to(edited)
    return edited


def _check_heads(donor: Donor, hook_name: str, heads: tuple[int, ...], call: str) -> None:
    """By the source, which has the model's own heads there: keys and values may have fewer than queries."""
    if heads and donor.tensor.ndim != 4:
        raise InputError(
            f"{call}: an activation of shape {tuple(donor.tensor.shape)} has no heads: leave them out"
        )
    n_heads = donor.tensor.shape[1 if donor.of_pattern else 2] if heads else 0
    if heads and max(heads) >= n_heads:
        raise InputError(f"{call}: head {max(heads)}: {hook_name} has heads 0..{n_heads - 1}")


def _check_shapes(activation: Tensor, donor: Donor, of_pattern: bool, call: str) -> None:
    mine = activation.shape[1:2] if of_pattern else activation.shape[2:]
    theirs = donor.tensor.shape[1:2] if of_pattern else donor.tensor.shape[2:]
    if mine != theirs or activation.ndim != donor.tensor.ndim:
        raise InputError(
            f"{call}: the source has shape {tuple(donor.tensor.shape)}, the activation "
            f"{tuple(activation.shape)}: record it at the same hook point of the same model"
        )


def _all_rows(context: BatchContext, batch: int, rows: int) -> tuple[Tensor, Tensor]:
    """Every real row of the block: ``(prompts, rows)``."""
    lengths = context.prompt_lengths(batch, rows)
    real = torch.arange(rows)[None] + context.offset < lengths[:, None]
    prompts, at = torch.nonzero(real, as_tuple=True)
    return prompts, at


def _positions(positions: int | Iterable[int], call: str) -> tuple[int, ...]:
    listed = tuple(positions) if isinstance(positions, Iterable) else (positions,)
    if not listed or not all(map(is_whole, listed)):
        raise InputError(f"{call}: positions {list(listed)}: give whole numbers, or None for all")
    return tuple(int(x) for x in listed)
