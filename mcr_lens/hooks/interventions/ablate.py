"""Taking away what makes a token massive: a write, its norm, or its massive dimensions.

Each function returns a plain list of TransformerLens hooks. ``dose`` says how much is taken: 0 leaves a run
bit-identical, 1 takes all. A position is one of the sequence, in every chunk and under ``generate``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext
from mcr_lens.hooks.interventions.base import (
    Edit,
    Indices,
    Intervention,
    build,
    check_dose,
    index_tuple,
)
from mcr_lens.hooks.interventions.positions import (
    Positions,
    PositionTuple,
    locate,
    position_tuple,
    recorded,
)
from mcr_lens.models.backend import Hook, Model

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
    return _ablate_write("ablate_mlp_write", "hook_mlp_out", layers, positions, dose, model)


def ablate_attention_write(
    layers: Indices, positions: Positions = 0, dose: float = 1.0, *, model: Model | None = None
) -> list[Hook]:
    """Keep ``1 - dose`` of what the layers' attention writes at some positions.

    Arguments and errors as in ``ablate_mlp_write``.
    """
    return _ablate_write("ablate_attention_write", "hook_attn_out", layers, positions, dose, model)


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

    def edit_of(layer: int, places: PositionTuple) -> Edit:
        limit = None if rest_norm is None else max_ratio * _rest_norm_behind(layer, rest_norm)
        return partial(_clamp, positions=places, max_ratio=max_ratio, limit=limit, dose=dose)

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
    zeroed = index_tuple(dimensions, "dimension", call)

    def edit_of(layer: int, places: PositionTuple) -> Edit:
        return partial(_zero, positions=places, dimensions=zeroed, dose=dose)

    settings = {"dimensions": list(zeroed)}
    return _at_layers(call, layers, "hook_resid_post", edit_of, positions, dose, settings, model)


def _ablate_write(
    call: str, point: str, layers: Indices, positions: Positions, dose: float, model: Model | None
) -> list[Hook]:
    def edit_of(layer: int, places: PositionTuple) -> Edit:
        return partial(_scale, positions=places, dose=dose, call=call)

    return _at_layers(call, layers, point, edit_of, positions, dose, {}, model, edits_write=True)


def _at_layers(
    call: str,
    layers: Indices,
    point: str,
    edit_of: Callable[[int, PositionTuple], Edit],
    positions: Positions,
    dose: float,
    settings: Mapping[str, object],
    model: Model | None,
    edits_write: bool = False,
) -> list[Hook]:
    """One edit per layer, with what all of these interventions have in common."""
    check_dose(dose, call)
    places = position_tuple(positions, call)
    blocks = index_tuple(layers, "layer", call)
    edits = {f"blocks.{layer}.{point}": edit_of(layer, places) for layer in blocks}
    settings = {"layers": list(blocks), "positions": recorded(places), **settings, "dose": dose}
    return build(Intervention(call, settings, tuple(edits), places, edits_write=edits_write), edits, model)


def _scale(
    write: Float[Tensor, "batch rows d_model"],
    context: BatchContext,
    positions: PositionTuple,
    dose: float,
    call: str,
) -> Tensor | None:
    prompts, _, rows = locate(positions, context, write.shape[0], write.shape[1], call)
    if dose == 0 or not len(prompts):
        return None
    edited = write.clone()
    # Not a product at dose 1: what is infinite must go too.
    edited[prompts, rows] = 0.0 if dose == 1 else write[prompts, rows] * (1 - dose)
    return edited


def _zero(
    state: Float[Tensor, "batch rows d_model"],
    context: BatchContext,
    positions: PositionTuple,
    dimensions: tuple[int, ...],
    dose: float,
) -> Tensor | None:
    d_model = state.shape[-1]
    if max(dimensions) >= d_model:
        raise InputError(
            f"zero_dimensions: dimension {max(dimensions)}: the residual stream has 0..{d_model - 1}"
        )
    prompts, _, rows = locate(positions, context, state.shape[0], state.shape[1], "zero_dimensions")
    if dose == 0 or not len(prompts):
        return None
    edited = state.clone()
    index = (prompts[:, None], rows[:, None], torch.tensor(dimensions))
    edited[index] = state[index] * (1 - dose) if dose < 1 else 0.0
    return edited


def _clamp(
    state: Float[Tensor, "batch rows d_model"],
    context: BatchContext,
    positions: PositionTuple,
    max_ratio: float,
    limit: float | None,
    dose: float,
) -> Tensor | None:
    batch, rows, _ = state.shape
    prompts, _, at = locate(positions, context, batch, rows, "clamp_norm")
    if dose == 0 or not len(prompts):
        return None
    norms = torch.linalg.vector_norm(state.float(), dim=-1)
    if limit is None:
        limits = max_ratio * _mean_of_the_others(norms, context, prompts, at)
    else:
        limits = torch.full((len(prompts),), limit, device=state.device)
    own = norms[prompts, at]
    # A state within its limit keeps every bit.
    factor = torch.where(own > limits, 1 - dose * (1 - limits / own), 1.0)
    edited = state.clone()
    edited[prompts, at] = (state[prompts, at] * factor[:, None]).to(state.dtype)
    return edited


def _mean_of_the_others(
    norms: Float[Tensor, "batch rows"], context: BatchContext, prompts: Tensor, at: Tensor
) -> Float[Tensor, "n"]:
    batch, rows = norms.shape
    if context.offset > 0 or not context.ends_with(rows):
        raise InputError(
            "clamp_norm compares with the other tokens of the whole prompt: leave out chunk=, or give "
            'rest_norm=profile.data.rest_norm.mean("prompt")'
        )
    others = context.real_rows(batch, rows).clone()
    others[prompts, at] = False
    others = others[prompts].to(norms.device)
    if not others.any(-1).all():
        raise InputError("clamp_norm: a prompt has no other tokens to compare with: give rest_norm")
    return torch.where(others, norms[prompts], 0.0).sum(-1) / others.sum(-1)


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
