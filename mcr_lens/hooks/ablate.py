"""Taking away what makes a token massive: a write, its norm, or its massive dimensions.

Each function returns a plain list of TransformerLens hooks. ``dose`` says how much is taken: 0 leaves a run
bit-identical, 1 takes all. A position is one of the sequence, in every chunk and under ``generate``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext
from mcr_lens.hooks.intervene import Edit, Intervention, indices, intervene
from mcr_lens.hooks.positions import Position, located
from mcr_lens.metrics.rows import real_rows
from mcr_lens.models.backend import Hook, Model

__all__ = ["ablate_attention_write", "ablate_mlp_write", "clamp_norm", "zero_dimensions"]


def ablate_mlp_write(
    layers: int | Iterable[int],
    position: Position = 0,
    dose: float = 1.0,
    *,
    model: Model | None = None,
) -> list[Hook]:
    """Keep ``1 - dose`` of what the layers' MLPs write at one position.

    With dose 1 this is the paper's ablation, ``x_BOS <- x_BOS + Attn(x)``: at that position the block leaves
    behind ``resid_pre + attn_out``.

    Args:
        layers: blocks, counted from 0.
        position: of the prompt; negative counts from its last real token; a sequence gives one a prompt.
        dose: 0 (untouched) to 1 (all of it).
        model: check the layers against this model now; else when the list is attached, where a plain
            ``run_with_hooks`` may raise TransformerLens's own ``KeyError`` (see ``hooks/intervene.py``).

    Raises:
        InputError: for layers, positions or doses that cannot be; for a model whose blocks add something
            else than the two writes that its hooks show, as where a norm comes after the addition.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> off = mcr.ablate_mlp_write(layers=[1], dose=0.5, model=model)
        >>> [name for name, _ in off]
        ['blocks.0.attn.hook_pattern', 'blocks.1.hook_mlp_out']

    The first pair only looks at where in the sequence a pass stands.
    """
    return _ablate_write("ablate_mlp_write", "hook_mlp_out", layers, position, dose, model)


def ablate_attention_write(
    layers: int | Iterable[int],
    position: Position = 0,
    dose: float = 1.0,
    *,
    model: Model | None = None,
) -> list[Hook]:
    """Keep ``1 - dose`` of what the layers' attention writes at one position.

    Arguments and errors as in ``ablate_mlp_write``.
    """
    return _ablate_write("ablate_attention_write", "hook_attn_out", layers, position, dose, model)


def clamp_norm(
    layers: int | Iterable[int],
    position: Position = 0,
    *,
    max_ratio: float = 1.0,
    rest_norm: Sequence[float] | None = None,
    dose: float = 1.0,
    model: Model | None = None,
) -> list[Hook]:
    """Scale the state at one position down to ``max_ratio`` times the mean norm of the other tokens.

    The state is the one that each layer leaves behind; its direction stays, and so does a state that is
    within the limit. The MLP is left alone. At a dose below 1 the norm is that much of the way down.

    Args:
        rest_norm: mean norm of the other tokens at every depth 0..L, such as
            ``profile.data.rest_norm.mean("prompt")``, used in place of the prompt's own. Needed where the
            prompt comes in chunks: the other tokens are not there yet.

    Raises:
        InputError: as in ``ablate_mlp_write``; for a ratio below 0; for chunks without ``rest_norm``.
    """
    call = "clamp_norm"
    if not max_ratio >= 0:
        raise InputError(f"{call}: max_ratio {max_ratio}: use 0 or more")
    settings = {"max_ratio": max_ratio, "rest_norm": "the prompt's own" if rest_norm is None else "given"}

    def edit_of(layer: int) -> Edit:
        limit = None if rest_norm is None else max_ratio * _rest_norm_behind(layer, rest_norm)
        return partial(_clamp, position=position, max_ratio=max_ratio, limit=limit, dose=dose)

    return _at_layers(call, layers, "hook_resid_post", edit_of, position, dose, settings, model)


def zero_dimensions(
    layers: int | Iterable[int],
    dimensions: int | Iterable[int],
    position: Position = 0,
    dose: float = 1.0,
    *,
    model: Model | None = None,
) -> list[Hook]:
    """Keep ``1 - dose`` of some dimensions of the state that the layers leave behind, at one position.

    ``profile.data.top_activation_dimension`` says which dimension is massive. The MLP is left alone.
    Arguments and errors as in ``ablate_mlp_write``; dimensions are those of the residual stream.
    """
    call = "zero_dimensions"
    chosen = indices(dimensions, "dimension", call)
    edit = partial(_zero, position=position, dimensions=chosen, dose=dose)
    settings = {"dimensions": list(chosen)}
    return _at_layers(call, layers, "hook_resid_post", lambda _: edit, position, dose, settings, model)


def _ablate_write(
    call: str,
    point: str,
    layers: int | Iterable[int],
    position: Position,
    dose: float,
    model: Model | None,
) -> list[Hook]:
    edit = partial(_scale, position=position, dose=dose, call=call)
    return _at_layers(call, layers, point, lambda _: edit, position, dose, {}, model, edits_write=True)


def _at_layers(
    call: str,
    layers: int | Iterable[int],
    point: str,
    edit_of: Callable[[int], Edit],
    position: Position,
    dose: float,
    settings: Mapping[str, object],
    model: Model | None,
    edits_write: bool = False,
) -> list[Hook]:
    """One edit a layer, with what all of these interventions have in common."""
    if not isinstance(dose, Real) or not 0 <= dose <= 1:
        raise InputError(f"{call}: dose {dose!r}: use 0 (untouched) to 1 (all of it)")
    listed = indices(layers, "layer", call)
    edits = {f"blocks.{layer}.{point}": edit_of(layer) for layer in listed}
    settings = {"layers": list(listed), "position": position, **settings, "dose": dose}
    made = Intervention(call, settings, tuple(edits), (position,), edits_write=edits_write)
    return intervene(made, edits, model)


def _scale(
    write: Float[Tensor, "batch rows d_model"],
    context: BatchContext,
    position: Position,
    dose: float,
    call: str,
) -> Tensor | None:
    prompts, rows = located(position, context, write.shape[0], write.shape[1], call)
    if dose == 0 or not len(prompts):
        return None
    edited = write.clone()
    # Not a product at dose 1: what is infinite must go too.
    edited[prompts, rows] = 0.0 if dose == 1 else write[prompts, rows] * (1 - dose)
    return edited


def _zero(
    state: Float[Tensor, "batch rows d_model"],
    context: BatchContext,
    position: Position,
    dimensions: tuple[int, ...],
    dose: float,
) -> Tensor | None:
    d_model = state.shape[-1]
    if max(dimensions) >= d_model:
        raise InputError(
            f"zero_dimensions: dimension {max(dimensions)}: the residual stream has 0..{d_model - 1}"
        )
    prompts, rows = located(position, context, state.shape[0], state.shape[1], "zero_dimensions")
    if dose == 0 or not len(prompts):
        return None
    edited = state.clone()
    chosen = torch.tensor(dimensions)
    kept = state[prompts[:, None], rows[:, None], chosen] * (1 - dose)
    edited[prompts[:, None], rows[:, None], chosen] = kept if dose < 1 else 0.0
    return edited


def _clamp(
    state: Float[Tensor, "batch rows d_model"],
    context: BatchContext,
    position: Position,
    max_ratio: float,
    limit: float | None,
    dose: float,
) -> Tensor | None:
    batch, rows, _ = state.shape
    prompts, at = located(position, context, batch, rows, "clamp_norm")
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
) -> Float[Tensor, "chosen"]:
    batch, rows = norms.shape
    if context.offset > 0 or not context.ends_with(rows):
        raise InputError(
            "clamp_norm compares with the other tokens of the whole prompt: leave out chunk=, or give "
            'rest_norm=profile.data.rest_norm.mean("prompt")'
        )
    real = real_rows(context.prompt_lengths(batch, rows), rows, 0, norms.device)[prompts]
    real[torch.arange(len(at)), at] = False
    if not real.any(-1).all():
        raise InputError("clamp_norm: a prompt of one token has no others to compare with: give rest_norm")
    return torch.where(real, norms[prompts], 0.0).sum(-1) / real.sum(-1)


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
