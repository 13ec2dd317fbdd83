"""Taking away what makes a token massive: a write, its norm, or its massive dimensions.

Each function returns a plain list of TransformerLens hooks. ``dose`` says how much is taken: 0 leaves a run
bit-identical, 1 takes all. A position is one of the sequence, in every chunk and under ``generate``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.interventions.base import (
    Indices,
    Intervention,
    Need,
    RowEdit,
    Rows,
    check_dose,
    edit_rows,
)
from mcr_lens.hooks.interventions.positions import Positions, position_tuple, recorded
from mcr_lens.models.backend import Hook, Model
from mcr_lens.validate import check_indices

__all__ = ["ablate_attention_write", "ablate_mlp_write", "clamp_norm", "zero_dimensions"]


def ablate_mlp_write(
    layers: Indices, positions: Positions = 0, dose: float = 1.0, *, model: Model | None = None
) -> list[Hook]:
    """Keep ``1 - dose`` of what the layers' MLPs write at some positions.

    With dose 1 this is the paper's ablation, ``x_BOS <- x_BOS + Attn(x)``: at that position the block leaves
    behind ``resid_pre + attn_out``.

    Args:
        layers: blocks, counted from 0.
        positions: one of every prompt, several of every prompt (``[0, 3]``), or a list for each prompt
            (``[[3], [5, 6]]``). Negative ones count from the last real token.
        dose: 0 (untouched) to 1 (all of it).
        model: check the layers against this model now, and follow its passes; else the engine checks. A plain
            ``run_with_hooks`` does not: a bridge of TransformerLens 3 ignores a layer that does not exist.

    Raises:
        InputError: for layers, positions or doses that cannot be; for a model whose blocks add something
            else than the two writes that its hooks show, as where a norm comes after the addition.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> off = mcr.ablate_mlp_write(layers=[1], dose=0.5, model=model)
        >>> [name for name, _ in off]
        ['blocks.1.hook_mlp_out']
    """
    return _ablate_write("mlp", layers, positions, dose, model)


def ablate_attention_write(
    layers: Indices, positions: Positions = 0, dose: float = 1.0, *, model: Model | None = None
) -> list[Hook]:
    """Keep ``1 - dose`` of what the layers' attention writes at some positions.

    Arguments and errors as in ``ablate_mlp_write``.
    """
    return _ablate_write("attention", layers, positions, dose, model)


def clamp_norm(
    layers: Indices,
    positions: Positions = 0,
    *,
    max_ratio: float = 1.0,
    rest_norm: Sequence[float] | None = None,
    dose: float = 1.0,
    model: Model | None = None,
) -> list[Hook]:
    """Scale the states at some positions down to ``max_ratio`` times the mean norm of the other tokens.

    A state is the one that a layer leaves behind; its direction stays, and so does a state that is
    within the limit. The MLP is left alone. At a dose below 1 the norm is that much of the way down.

    Args:
        rest_norm: mean norm of the other tokens at every depth 0..L, such as
            ``profile.data.rest_norm.mean("prompt")``, used in place of the prompt's own. Needed where the
            prompt comes in chunks: the other tokens are not there yet.

    Raises:
        InputError: as in ``ablate_mlp_write``; for a ratio below 0; for chunks without ``rest_norm``.
    """
    if not max_ratio >= 0:
        raise InputError(f"clamp_norm: max_ratio {max_ratio}: use 0 or more")
    settings = {"max_ratio": max_ratio, "rest_norm": "the prompt's own" if rest_norm is None else "given"}

    def edit_of(layer: int) -> RowEdit:
        limit = None if rest_norm is None else max_ratio * _rest_norm_behind(layer, rest_norm)
        return partial(_clamp, max_ratio=max_ratio, limit=limit, dose=dose)

    return _at_layers("clamp_norm", layers, "hook_resid_post", edit_of, positions, dose, settings, model)


def zero_dimensions(
    layers: Indices,
    dimensions: Indices,
    positions: Positions = 0,
    dose: float = 1.0,
    *,
    model: Model | None = None,
) -> list[Hook]:
    """Keep ``1 - dose`` of some dimensions of the states that the layers leave behind, at some positions.

    ``profile.data.top_activation_dimension`` says which dimension is massive. The MLP is left alone.
    Arguments and errors as in ``ablate_mlp_write``; dimensions are those of the residual stream.
    """
    call = "zero_dimensions"
    zeroed = check_indices(f"{call}: dimensions", dimensions)
    edit = partial(_zero, dimensions=zeroed, dose=dose)
    settings = {"dimensions": list(zeroed)}
    return _at_layers(call, layers, "hook_resid_post", lambda _: edit, positions, dose, settings, model)


def _ablate_write(
    kind: Literal["mlp", "attention"], layers: Indices, positions: Positions, dose: float, model: Model | None
) -> list[Hook]:
    call, point = f"ablate_{kind}_write", "hook_mlp_out" if kind == "mlp" else "hook_attn_out"
    edit = partial(_scale, dose=dose)
    return _at_layers(call, layers, point, lambda _: edit, positions, dose, {}, model, "residual_sum")


def _at_layers(
    call: str,
    layers: Indices,
    point: str,
    edit_of: Callable[[int], RowEdit],
    positions: Positions,
    dose: float,
    settings: Mapping[str, object],
    model: Model | None,
    need: Need | None = None,
) -> list[Hook]:
    """One edit per layer, with what all of these interventions have in common."""
    check_dose(dose, call)
    places = position_tuple(positions, call)
    blocks = check_indices(f"{call}: layers", layers)
    settings = {"layers": list(blocks), "positions": recorded(places), **settings, "dose": dose}
    edits = {f"blocks.{layer}.{point}": edit_of(layer) for layer in blocks}
    return edit_rows(Intervention(call, settings, places, need=need), edits, model)


def _scale(writes: Float[Tensor, "n d_model"], rows: Rows, dose: float) -> Tensor | None:
    # Not a product at dose 1: what is infinite must go too.
    return None if dose == 0 else torch.zeros_like(writes) if dose == 1 else writes * (1 - dose)


def _zero(
    states: Float[Tensor, "n d_model"], rows: Rows, dimensions: tuple[int, ...], dose: float
) -> Tensor | None:
    d_model = states.shape[-1]
    if max(dimensions) >= d_model:
        raise InputError(
            f"zero_dimensions: dimension {max(dimensions)}: the residual stream has 0..{d_model - 1}"
        )
    states[:, dimensions] = states[:, dimensions] * (1 - dose) if dose < 1 else 0.0
    return states


def _clamp(
    states: Float[Tensor, "n d_model"], rows: Rows, max_ratio: float, limit: float | None, dose: float
) -> Tensor | None:
    if dose == 0:
        return None
    limits = max_ratio * _mean_of_the_others(rows) if limit is None else limit
    norms = torch.linalg.vector_norm(states.float(), dim=-1)
    # A state within its limit keeps every bit.
    factor = torch.where(norms > limits, 1 - dose * (1 - limits / norms), 1.0)
    return states * factor[:, None]


def _mean_of_the_others(rows: Rows) -> Float[Tensor, "n"]:
    batch, n_rows, _ = rows.activation.shape
    if rows.context.offset > 0 or not rows.context.ends_with(n_rows):
        raise InputError(
            "clamp_norm compares with the other tokens of the whole prompt: leave out chunk=, or give "
            'rest_norm=profile.data.rest_norm.mean("prompt")'
        )
    others = rows.context.real_rows(batch, n_rows).clone()
    others[rows.prompts, rows.at] = False
    others = others[rows.prompts].to(rows.activation.device)
    if not others.any(-1).all():
        raise InputError("clamp_norm: a prompt has no other tokens to compare with: give rest_norm")
    norms = torch.linalg.vector_norm(rows.activation.float(), dim=-1)[rows.prompts]
    return torch.where(others, norms, 0.0).sum(-1) / others.sum(-1)


def _rest_norm_behind(layer: int, rest_norm: Sequence[float]) -> float:
    if layer + 1 >= len(rest_norm):
        raise InputError(
            f"clamp_norm: rest_norm has {len(rest_norm)} values, layer {layer} needs one for depth "
            f"{layer + 1}: give one for every depth 0..L"
        )
    value = float(rest_norm[layer + 1])
    if not value > 0:
        raise InputError(f"clamp_norm: rest_norm {value} at depth {layer + 1}: a mean norm is above 0")
    return value
