"""Putting other activations in: those of another run, of the mean prompt, of a random one.

The source is a tensor, or any mapping from hook names to tensors: what ``mcr_lens.record`` returns, or
TransformerLens's own ``ActivationCache``. Its rows are the prompts that are measured, in their order, or one
row for all of them; a position in it is a position in the prompt, in every chunk and batch.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.interventions.base import Indices, Intervention, Rows, edit_rows
from mcr_lens.hooks.interventions.patch_source import PatchSource
from mcr_lens.hooks.interventions.positions import Positions, PositionTuple, position_tuple, recorded
from mcr_lens.hooks.record import Activations
from mcr_lens.models.backend import Hook, Model
from mcr_lens.validate import check_count, check_indices

__all__ = ["mean_ablate", "patch_activation", "resample_ablate"]

Source = Tensor | Mapping[str, Tensor]


def patch_activation(
    hook_name: str,
    source: Source,
    positions: Positions | None = None,
    heads: Indices | None = None,
    *,
    model: Model | None = None,
) -> list[Hook]:
    """Replace the activation at a hook point by that of another run, position by position.

    Args:
        hook_name: such as ``"blocks.3.hook_resid_pre"`` or ``"blocks.3.attn.hook_z"``.
        source: a tensor ``(prompt, pos, ...)`` (patterns and scores ``(prompt, head, query, key)``), or a
            mapping that has one under ``hook_name``. One row serves all prompts.
        positions: one of every prompt, several of every prompt (``[0, 3]``), or a list for each prompt
            (``[[3], [5, 6]]``); for a pattern, of the queries. Negative ones count from the last real token.
            ``None``: all that the prompt has.
        heads: of an activation that has heads; ``None`` for all.
        model: check the name and heads against this model now, and follow its passes; else the engine checks.

    Raises:
        InputError: for a name, shape, position or head that source or model do not have.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> clean = mcr.Prompts.from_texts(["Ann has 5 pens."], model)
        >>> name = "blocks.1.hook_mlp_out"
        >>> swap = mcr.patch_activation(name, mcr.record(model, clean, [name]), positions=0)
        >>> [name for name, _ in swap]
        ['blocks.1.hook_mlp_out']
    """
    patch_source = PatchSource.of(source, hook_name, "patch_activation")
    return _replace("patch_activation", hook_name, patch_source, positions, heads, model, {})


def mean_ablate(
    hook_name: str,
    reference: Activations,
    positions: Positions | None = None,
    heads: Indices | None = None,
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
    source = PatchSource.of(reference, hook_name, "mean_ablate")
    mean = source.mean_token() if over == "tokens" else source.mean_prompt()
    return _replace("mean_ablate", hook_name, mean, positions, heads, model, {"over": over})


def resample_ablate(
    hook_name: str,
    reference: Activations,
    positions: Positions | None = None,
    heads: Indices | None = None,
    *,
    seed: int = 0,
    model: Model | None = None,
) -> list[Hook]:
    """Replace each prompt's activation by that of a reference prompt drawn at random.

    The draw is a function of the seed and the prompt's number, whatever the batch; it is made among the
    reference prompts that are long enough. Other arguments and errors as in ``mean_ablate``.
    """
    check_count("resample_ablate: seed", seed, 0)
    source = replace(PatchSource.of(reference, hook_name, "resample_ablate"), seed=seed)
    return _replace("resample_ablate", hook_name, source, positions, heads, model, {"seed": seed})


def _replace(
    call: str,
    hook_name: str,
    source: PatchSource,
    positions: Positions | None,
    heads: Indices | None,
    model: Model | None,
    settings: Mapping[str, Any],
) -> list[Hook]:
    places = None if positions is None else position_tuple(positions, call)
    patched = () if heads is None else check_indices(f"{call}: heads", heads)
    _check_heads(source, hook_name, patched, call)
    settings = {
        "hook_name": hook_name,
        "positions": recorded(places),
        "heads": list(patched) or "all",
        **settings,
    }
    need = "pattern_edits" if source.of_pattern else None
    edit = partial(_put, source=source, positions=places, heads=patched, call=call)
    return edit_rows(Intervention(call, settings, places, patched, need), {hook_name: edit}, model)


def _put(
    values: Float[Tensor, "n ..."],
    rows: Rows,
    source: PatchSource,
    positions: PositionTuple | None,
    heads: tuple[int, ...],
    call: str,
) -> Tensor:
    context, activation = rows.context, rows.activation
    _check_shapes(activation, source, call)
    lengths = context.prompt_lengths(len(activation), activation.shape[2 if source.of_pattern else 1])
    donors = source.prompts(context, _needed(positions, lengths), call)[rows.prompts]
    there = source.has(donors, rows.positions)
    # In a sequence that grows past the source the new tokens are their own.
    if not there.all() and not context.grows:
        first = int((~there).nonzero()[0])
        raise InputError(
            f"{call}: position {int(rows.positions[first])} is beyond the source, whose prompt "
            f"{int(donors[first])} has {int(source.lengths[donors[first]])} tokens there: give positions=, "
            "or a source as long as the prompts; where the sequence grows, run inside "
            "`with mcr.generating(model):`"
        )
    donors, found = donors[there], rows.positions[there]
    if source.of_pattern:
        if context.mask is not None:
            raise InputError(
                f"{call}: patterns of a padded batch are not patched: run the prompts one by one"
            )
        first_key = context.offset + activation.shape[2] - activation.shape[3]
        new = source.pattern_rows(donors, found, first_key, values[there])
    else:
        new = source.values(donors, found).to(values)
    if heads:
        values[there.nonzero(), torch.tensor(heads)] = new[:, list(heads)]
    else:
        values[there] = new
    return values


def _needed(positions: PositionTuple | None, lengths: Int[Tensor, "batch"]) -> Int[Tensor, "batch"]:
    """Positions that a donor must have, whatever the chunk; only a draw at random asks."""
    fixed = [at for at in positions or () if isinstance(at, int) and at >= 0]
    if positions is not None and len(fixed) == len(positions):
        return torch.full_like(lengths, max(fixed) + 1)
    return lengths


def _check_heads(source: PatchSource, hook_name: str, heads: tuple[int, ...], call: str) -> None:
    """By the source, which has the model's own heads there: keys and values may have fewer than queries."""
    if heads and source.tensor.ndim != 4:
        raise InputError(
            f"{call}: an activation of shape {tuple(source.tensor.shape)} has no heads: leave them out"
        )
    n_heads = source.tensor.shape[1 if source.of_pattern else 2] if heads else 0
    if heads and max(heads) >= n_heads:
        raise InputError(f"{call}: head {max(heads)}: {hook_name} has heads 0..{n_heads - 1}")


def _check_shapes(activation: Tensor, source: PatchSource, call: str) -> None:
    mine = activation.shape[1:2] if source.of_pattern else activation.shape[2:]
    theirs = source.tensor.shape[1:2] if source.of_pattern else source.tensor.shape[2:]
    if mine != theirs or activation.ndim != source.tensor.ndim:
        raise InputError(
            f"{call}: the source has shape {tuple(source.tensor.shape)}, the activation "
            f"{tuple(activation.shape)}: record it at the same hook point of the same model"
        )
