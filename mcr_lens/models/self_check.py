"""What a loaded model must satisfy for its hooks to mean what their names say."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from mcr_lens.errors import InputError, one_line
from mcr_lens.models.backend import Model, as_module, evaluation_mode, new_cache, run
from mcr_lens.models.boundaries import checked_lengths, rotary_limit
from mcr_lens.models.own_attention import attention_check, relative_error, tolerance_of
from mcr_lens.models.unembed import logit_error, read_out
from mcr_lens.models.user_hooks import points_set_aside

__all__ = ["SelfCheck", "cache_check", "self_check"]

_PATTERN = "attn.hook_pattern"
_SUM = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
_VALUES = (_PATTERN, "attn.hook_v", "attn.hook_z")

# What was read at the hook points of each block that has them.
Blocks = list[dict[str, Tensor]]


class SelfCheck(NamedTuple):
    """Outcome of the self-check: what failed, by name, and whether patterns leave room for a learned sink."""

    failed: Mapping[str, str]
    learned_sink: bool


def self_check(model: Model) -> SelfCheck:
    """Compare a model's hooks with each other on a few tokens, once, right after it was loaded.

    On a few tokens, or on as many as lie beyond the windows and the like that the configuration names
    (``checked_lengths``). Seven checks: ``pattern_rows`` (rows of every pattern sum to one, or to less under
    a learned sink), ``value_rows`` (the pattern times the value vectors is what the heads give),
    ``residual_sum`` (pre + attention write + MLP write = post in every block), ``final_readout`` (the
    unembedding of the last depth is the logits), ``pattern_edits`` (an edited pattern changes the logits),
    ``batch_mates`` (a prompt's logits are the same alone and beside longer ones) and ``own_attention`` (what
    a bridge computes in place of a Hugging Face module is what that module gives; ``asked_attention`` where
    the module cannot be asked). Hooks at the model's hook points are set aside: the outcome is the model's.

    Raises:
        InputError: for a model that cannot be run at all, or whose residual stream cannot be read.
    """
    lengths = checked_lengths(model).lengths
    tokens = _tokens(model, lengths[-1])
    blocks: Blocks = [{} for _ in range(model.cfg.n_layers)]

    def keep(tensor: Tensor, hook: object, layer: int, name: str) -> None:
        blocks[layer][name] = tensor.detach().clone()

    hooks = [
        (point, partial(keep, layer=layer, name=name))
        for layer in range(model.cfg.n_layers)
        for name in (*_SUM, *_VALUES)
        if (point := f"blocks.{layer}.{name}") in model.hook_dict
    ]
    # Dropout would look like a broken hook, and so would an edit.
    with evaluation_mode(model), points_set_aside([as_module(model)]):
        try:
            with attention_check(model) as failed_attention:
                logits = run(model, tokens, hooks)
        except Exception as error:  # whatever an architecture, or a hook of the user's, may raise
            raise InputError(
                f"{model.cfg.model_name}: TransformerLens cannot run this model ({type(error).__name__}: "
                f"{one_line(error, 200)}); another version of it may"
            ) from error
        _refuse_unseen_depths(model, blocks)
        tolerance = tolerance_of(logits)
        sums = [block[_PATTERN].float().sum(-1) for block in blocks if _PATTERN in block]
        # A logit a head that takes part in the softmax and is dropped: both model classes call them sinks.
        has_sinks = any(name.endswith(".sinks") for name, _ in as_module(model).named_parameters())
        learned_sink = has_sinks and _leave_room(sums, tolerance)
        faults = {
            "pattern_rows": _pattern_rows(sums, model, learned_sink, tolerance),
            "value_rows": _value_rows(blocks, tolerance),
            "residual_sum": _residual_sum(blocks, tolerance),
            "final_readout": _final_readout(model, blocks[-1].get("hook_resid_post"), logits),
            "pattern_edits": _pattern_edits(model, tokens, logits),
            "batch_mates": _batch_mates(model, tokens, lengths),
        }
    failed = {name: fault for name, fault in faults.items() if fault is not None}
    return SelfCheck(failed | failed_attention, learned_sink)


def _refuse_unseen_depths(model: Model, blocks: Blocks) -> None:
    """Some blocks give what they leave in another form than a tensor, and their hook point stays silent."""
    points = [*((layer, "hook_resid_pre") for layer in range(len(blocks))), (-1, "hook_resid_post")]
    if silent := [(layer % len(blocks), name) for layer, name in points if name not in blocks[layer]]:
        raise InputError(
            f"{model.cfg.model_name}: TransformerLens does not show the residual stream of this model "
            f"(blocks.{silent[0][0]}.{silent[0][1]} does not fire); another version of it may"
        )


def cache_check(model: Model) -> str | None:
    """What goes wrong when a model is fed in chunks; ``None`` when all is well.

    Prompts of a few tokens, and of lengths on both sides of every boundary within reach, must give the same
    logits whole and in two chunks. So a position, a window or a mask that forgets what the cache holds is
    found. The first chunk lies on the same side of a change of rotary factors as the whole.
    """
    limit = rotary_limit(model)
    with evaluation_mode(model):
        for length in checked_lengths(model).lengths[1:]:
            tokens = _tokens(model, length)
            first = length // 3 if limit is None or length <= limit else limit + 1
            whole = run(model, tokens, [])
            try:
                cache = new_cache(model, 1)
                run(model, tokens[:, :first], [], cache=cache)
                rest = run(model, tokens[:, first:], [], cache=cache)
            except Exception as error:  # an architecture may have another kind of memory, or none
                return f"it does not run through a KV cache ({type(error).__name__}: {one_line(error, 200)})"
            error = logit_error(rest, whole[:, first:])
            if not error <= tolerance_of(whole):
                beyond = f" of a prompt of {length} tokens" if length > 6 else ""
                return f"through its KV cache the logits{beyond} differ by {error:.2g}"
    return None


def _tokens(model: Model, length: int) -> Int[Tensor, "1 pos"]:
    return torch.arange(1, length + 1, device=model.cfg.device)[None] % model.cfg.d_vocab


def _batch_mates(model: Model, tokens: Int[Tensor, "1 pos"], lengths: Sequence[int]) -> str | None:
    """Each prompt alone, and padded beside the longest on its side of a change of rotary factors."""
    limit = rotary_limit(model) or 0
    for side in ([n for n in lengths if n <= limit], [n for n in lengths if n > limit]):
        if len(side) < 2:
            continue
        # Padded as ``Prompts.batches`` does it.
        ends = torch.tensor(side, device=tokens.device)[:, None] - 1
        places = torch.arange(side[-1], device=tokens.device)[None].minimum(ends)
        together = run(model, tokens[0][places], [])
        for row, length in enumerate(side):
            alone = run(model, tokens[:, :length], [])
            error = logit_error(together[row : row + 1, :length], alone)
            if error > _batch_tolerance(model, alone):
                return (
                    f"beside one of {side[-1]} tokens a prompt of {length} has other logits than alone, by "
                    f"{error:.2g}, as if its tokens saw what comes after them{_eager(model)}"
                )
    return None


def _eager(model: Model) -> str:
    """The way out where the fused attention of a Hugging Face model gives no pattern, or no mask."""
    config = getattr(getattr(model, "original_model", None), "config", None)
    kind = getattr(config, "_attn_implementation", None) or "eager"
    if kind == "eager":
        return ""
    return f"; it runs with {kind!r}: load the Hugging Face model with attn_implementation='eager'"


def _batch_tolerance(model: Model, logits: Tensor) -> float:
    """Few bits, in quantised modules too, are rounded anew in other company, which may pick other experts."""
    kinds = {type(part).__module__ for part in as_module(model).modules()}
    is_quantised = any("quant" in kind or "bitsandbytes" in kind for kind in kinds)
    return max(tolerance_of(logits), 0.2 if is_quantised or logits.dtype.itemsize < 4 else 0.0)


def _leave_room(sums: list[Tensor], tolerance: float) -> bool:
    """Rows of all patterns sum to at most one, some to clearly less, and not all of a pattern to nothing."""
    allowed = all(bool(((rows >= 0) & (rows <= 1 + tolerance)).all() & (rows > 0).any()) for rows in sums)
    return allowed and any(bool((rows < 1 - 2 * tolerance).any()) for rows in sums)


def _pattern_rows(sums: list[Tensor], model: Model, learned_sink: bool, tolerance: float) -> str | None:
    n_layers = model.cfg.n_layers
    if not sums:
        return f"no attention pattern fires{_eager(model)}"
    if len(sums) < n_layers:  # blocks of another kind between those with attention
        return f"{n_layers - len(sums)} of {n_layers} blocks have no attention pattern"
    error = _largest([(rows - 1).abs().max().cpu() for rows in sums])
    is_right = learned_sink or error <= tolerance
    return None if is_right else f"rows of a pattern sum to 1 only within {error:.2g}"


def _value_rows(blocks: Blocks, tolerance: float) -> str | None:
    """Value vectors may be normed after their hook point, or lie in another order than their name says."""
    errors = []
    for layer, block in enumerate(blocks):
        if not block.keys() >= {*_VALUES}:
            continue
        pattern, values, heads = (block[name].float() for name in _VALUES)
        if values.ndim != 4 or values.shape[1] != pattern.shape[-1] or pattern.shape[1] % values.shape[2]:
            return f"the value vectors of block {layer} have the shape {tuple(values.shape)}"
        of_heads = values.repeat_interleave(pattern.shape[1] // values.shape[2], dim=2)
        sums = torch.einsum("bhqk,bkhd->bqhd", pattern, of_heads)
        if sums.numel() != heads.numel():
            return f"the heads of block {layer} give {heads.numel()} numbers, their values {sums.numel()}"
        errors.append(relative_error(sums.flatten(), heads.flatten()))
    if not (error := _largest(errors)) <= tolerance:
        return f"patterns times value vectors differ from what the heads give by {error:.2g}"
    return None


def _residual_sum(blocks: Blocks, tolerance: float) -> str | None:
    errors = []
    for layer, block in enumerate(blocks):
        if not block.keys() >= {*_SUM}:
            return f"block {layer} lacks one of resid_pre, attn_out, mlp_out, resid_post"
        *writes, post = (block[name].float() for name in _SUM)
        errors.append(relative_error(torch.stack(writes).sum(0), post))
    if not (error := _largest(errors)) <= tolerance:
        return f"resid_pre + attn_out + mlp_out differs from resid_post by {error:.2g}"
    return None


def _largest(errors: list[Tensor]) -> float:
    """0 of none; NaN if there is one: compared as ``not error <= tolerance`` it fails."""
    return float(torch.stack([torch.tensor(0.0), *errors]).max())


def _final_readout(model: Model, last: Tensor | None, logits: Tensor) -> str | None:
    if last is None:
        return "the last block has no resid_post"
    if getattr(model, "ln_final", None) is None or getattr(model, "unembed", None) is None:
        return "the architecture has no final norm, or no unembedding"
    error = logit_error(read_out(model, last), logits)
    if not error <= tolerance_of(logits):
        return f"unembed(ln_final(last depth)) differs from the logits by {error:.2g}"
    return None


def _pattern_edits(model: Model, tokens: Tensor, logits: Tensor) -> str | None:
    point = f"blocks.0.{_PATTERN}"
    if point not in model.hook_dict:
        return "no attention pattern fires"

    def only_first_key(pattern: Tensor, hook: object) -> Tensor:
        edited = torch.zeros_like(pattern)
        edited[..., 0] = 1.0
        return edited

    if torch.equal(run(model, tokens, [(point, only_first_key)]), logits):
        return "edits of attention patterns are discarded by this architecture"
    return None
