"""Lengths at which a model becomes another function of its tokens: windows, chunks of attention, rotary sets.

A check on a few tokens says nothing of what happens beyond them. What the configuration names is collected
here, so that the self-check can look on both sides and batches need not straddle it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from mcr_lens.models.backend import Model, as_module, backend_of

__all__ = ["CheckedLengths", "attention_spans", "checked_lengths", "layer_windows", "rotary_limit"]

# Tokens of a prompt that every model is checked on, and of a shorter one beside it.
_FEW = (4, 6)
# What a check beyond a boundary may cost: tokens, and weights times tokens on a host and on an accelerator.
_MOST_TOKENS = 600
_MOST_PRODUCTS = {"cpu": 3e11}
_MOST_ELSEWHERE = 1e13


class CheckedLengths(NamedTuple):
    """Lengths of the prompts that the self-check runs, shortest first, and boundaries too far for it."""

    lengths: tuple[int, ...]
    unchecked: tuple[int, ...]


def checked_lengths(model: Model) -> CheckedLengths:
    """A few tokens, and both sides of every boundary that is near enough to be run cheaply."""
    windows, chunk = attention_spans(model)
    named = {*windows, chunk, rotary_limit(model)} - {None}
    near, far = [], []
    weights = sum(parameter.numel() for parameter in as_module(model).parameters())
    most = _MOST_PRODUCTS.get(torch.device(model.cfg.device).type, _MOST_ELSEWHERE)
    for boundary in sorted(boundary for boundary in named if boundary is not None):
        if boundary < model.cfg.n_ctx:  # else no prompt comes to lie beyond it
            is_near = boundary <= _MOST_TOKENS and boundary * weights <= most
            (near if is_near else far).append(boundary)
    beyond = {min(boundary + 4, model.cfg.n_ctx) for boundary in near}
    return CheckedLengths(tuple(sorted({*_FEW, *near, *beyond} - {1})), tuple(far))


def rotary_limit(model: Model) -> int | None:
    """The longest call that has the rotary factors of short ones; ``None`` where all calls have the same.

    Transformers looks at the last position of a call: beyond the context that a model was first trained on,
    ``longrope`` takes other factors, and ``dynamic`` other ones for every length.
    """
    if backend_of(model) == "hooked_transformer":  # its factors are made once
        return None
    config = model.original_model.config.get_text_config(decoder=True)
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    limits = []
    # Some models have a set for each kind of layer.
    for each in [parameters, *parameters.values()]:
        kind = str(each.get("rope_type", each.get("type"))) if isinstance(each, Mapping) else ""
        if kind in ("longrope", "su") or "dynamic" in kind:
            original = each.get("original_max_position_embeddings") if "dynamic" not in kind else None
            limits.append(original or config.max_position_embeddings)
    return min(limits, default=None)


def attention_spans(model: Model) -> tuple[tuple[int | None, ...], int | None]:
    """The sliding window of each layer, and the chunk that some layers' attention stays within."""
    if backend_of(model) == "hooked_transformer":
        kinds = model.cfg.attn_types or ["global"] * model.cfg.n_layers
        return tuple(model.cfg.window_size if kind == "local" else None for kind in kinds), None
    config = model.original_model.config.get_text_config(decoder=True)
    has_chunks = "chunked_attention" in (getattr(config, "layer_types", None) or ())
    chunk = getattr(config, "attention_chunk_size", None) if has_chunks else None
    return layer_windows(config, model.cfg.n_layers), chunk


def layer_windows(config: Any, n_layers: int) -> tuple[int | None, ...]:
    """Sliding window of each layer by a Hugging Face configuration; ``None`` where attention is global."""
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if kinds is None:
        is_local = window and getattr(config, "use_sliding_window", True)
        kinds = ["local" if is_local else "global"] * n_layers
    return tuple(window if kind in ("sliding_attention", "local") else None for kind in kinds)
