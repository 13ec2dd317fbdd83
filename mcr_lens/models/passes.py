"""Where a forward pass stands in its sequence, as its KV cache and its attention mask say.

A hook sees a block of rows and nothing else. ``follow`` leaves PyTorch hooks on a model that read, when a
pass begins, how many tokens its cache holds and which tokens are padding. On a bridge that is one hook on the
Hugging Face model. ``HookedTransformer`` calls its own ``forward`` past any hook of PyTorch's, so there it is
one on every block, and hook points outside the blocks are not followed.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mcr_lens.models.backend import Model, backend_of

__all__ = ["Pass", "current_pass", "failed_checks", "follow", "is_second_call", "padding_mask"]

# Marks the hook points of a model that is followed: a pass of another model says nothing about them. It holds
# what the self-check found wrong with the model, and the id of its padding.
_MARK = "_mcr_lens_model"


class Pass(NamedTuple):
    """A forward pass.

    Attributes:
        shape: prompts, and rows of each.
        offset: tokens that came before its first row.
        mask: ``(batch, tokens so far)``, 0 where a token is padding; ``None`` where the pass has none.
        ids: of its tokens, where the pass says them.
    """

    shape: tuple[int, int]
    offset: int
    mask: Tensor | None
    ids: Tensor | None


class _Mark(NamedTuple):
    failed_checks: Mapping[str, str]
    pad_id: int | None


# Innermost last: a hook may run another model.
_PASSES: ContextVar[tuple[Pass | None, ...]] = ContextVar("mcr_lens_passes", default=())
# What HookedTransformer's embedding was given last; its blocks see no ids.
_IDS: ContextVar[Tensor | None] = ContextVar("mcr_lens_ids", default=None)


def current_pass(hook_point: Any) -> Pass | None:
    """The pass that a hook point fires in; ``None`` where its model is not followed."""
    passes = _PASSES.get()
    return passes[-1] if passes and hasattr(_own(hook_point), _MARK) else None


def failed_checks(hook_point: Any) -> Mapping[str, str]:
    """What the self-check found wrong with the model of a hook point, as far as ``follow`` was told."""
    mark = getattr(_own(hook_point), _MARK, None)
    return {} if mark is None else mark.failed_checks


def padding_mask(hook_point: Any, this: Pass) -> Tensor | None:
    """Where the ids of a pass are real by their looks, ``(batch, tokens)``; ``None`` where nothing says it.

    Runs of the padding id at the ends of a row are padding. One such id that every row has there is none: it
    may be the BOS or the EOS.
    """
    pad_id = getattr(_own(hook_point), _MARK).pad_id
    if this.ids is None or pad_id is None:
        return None
    is_pad = this.ids.cpu() == pad_id
    return ~(_run_in_front(is_pad) | _run_in_front(is_pad.flip(1)).flip(1))


def _run_in_front(is_pad: Tensor) -> Tensor:
    counts = is_pad.int().cumprod(1).sum(1)
    counts = counts - counts.min().clamp(max=1)
    return torch.arange(is_pad.shape[1]) < counts[:, None]


def _own(hook_point: Any) -> Any:
    # In compatibility mode the bridge hands its hooks a stand-in with another name.
    return getattr(hook_point, "_target", hook_point)


def is_second_call(hook_point: Any) -> bool:
    """In compatibility mode the bridge may call a hook twice, under the point's own name and another."""
    own = _own(hook_point)
    return own is not hook_point and hook_point.name == own.name


def follow(model: Model, failed: Mapping[str, str] | None = None) -> ExitStack:
    """Follow the passes of a model from now on.

    Args:
        failed: its failed checks.

    Returns:
        What ends it when it is closed; it does nothing if the model is followed already.
    """
    on_bridge, end = backend_of(model) == "bridge", ExitStack()
    enter = _enter_bridge if on_bridge else _enter_block
    parts: list[nn.Module] = [model.original_model] if on_bridge else list(model.blocks)
    if enter in parts[0]._forward_pre_hooks.values():
        return end
    failed = dict(failed or {})
    if "blocks.0.hook_mlp_out" not in model.hook_dict:
        failed.pop("residual_sum", None)  # there is no sum of two to fail
    config = getattr(getattr(model, "original_model", None), "config", None)
    mark = _Mark(failed, getattr(model.tokenizer or config, "pad_token_id", None))
    for name, point in model.hook_dict.items():
        if on_bridge or name.startswith("blocks."):
            setattr(_own(point), _MARK, mark)
            end.callback(vars(_own(point)).pop, _MARK, None)
    if not on_bridge:
        end.callback(model.embed.register_forward_pre_hook(_see_ids).remove)
    for part in parts:
        end.callback(part.register_forward_pre_hook(enter, with_kwargs=True).remove)
        end.callback(part.register_forward_hook(_leave, always_call=True).remove)
    return end


def _enter_bridge(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    inputs = args[0] if args else kwargs.get("input_ids")
    inputs = kwargs.get("inputs_embeds") if inputs is None else inputs
    ids = inputs if isinstance(inputs, Tensor) and inputs.ndim == 2 else None
    _enter(inputs, _tokens_in(kwargs.get("past_key_values"), kwargs.get("cache_position")), kwargs, ids)


def _see_ids(module: nn.Module, args: Any) -> None:
    _IDS.set(args[0] if args else None)


def _enter_block(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    entry = kwargs.get("past_kv_cache_entry")
    ids = _IDS.get()
    same = ids is not None and ids.shape == args[0].shape[:2]
    _enter(args[0], 0 if entry is None else entry.past_keys.shape[1], kwargs, ids if same else None)


def _enter(inputs: Tensor | None, offset: int | None, kwargs: dict[str, Any], ids: Tensor | None) -> None:
    mask, this = kwargs.get("attention_mask"), None
    if mask is not None:  # it says what is padding, or was made of a mask of the user's
        ids = None
    if not isinstance(mask, Tensor) or mask.ndim != 2:  # one of queries and keys says nothing of padding
        mask = None
    if inputs is not None and offset is not None:
        this = Pass((inputs.shape[0], inputs.shape[1]), offset, mask, ids)
    _PASSES.set((*_PASSES.get(), this))


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    _PASSES.set(_PASSES.get()[:-1])


def _tokens_in(cache: Any, cache_position: Tensor | None) -> int | None:
    """Tokens that a Hugging Face cache has seen, also those that a sliding window forgot."""
    if cache_position is not None:
        return int(cache_position[0])
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except (AttributeError, ValueError):  # a cache of its own kind, or one without attention layers
        return None
