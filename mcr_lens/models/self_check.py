"""What a loaded model must satisfy for its hooks to mean what their names say."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mcr_lens.errors import InputError, one_line
from mcr_lens.models.backend import Model, as_module, evaluation_mode, run
from mcr_lens.models.logit_error import logit_error
from mcr_lens.models.own_attention import AttentionCheck
from mcr_lens.models.user_hooks import points_set_aside

__all__ = ["SelfCheck", "self_check"]

_TOKENS = 6
_TINY = torch.finfo(torch.float32).tiny


class SelfCheck(NamedTuple):
    """Outcome of the self-check: what failed, by name, and whether patterns leave room for a learned sink."""

    failed: Mapping[str, str]
    learned_sink: bool


def self_check(model: Model) -> SelfCheck:
    """Compare a model's hooks with each other on a few tokens, once, right after it was loaded.

    Six checks: ``pattern_rows`` (rows of every pattern sum to one, or to less under a learned sink),
    ``value_rows`` (the pattern times the value vectors is what the heads give), ``residual_sum`` (pre +
    attention write + MLP write = post in every block), ``final_readout`` (the unembedding of the last depth
    is the logits), ``pattern_edits`` (an edited pattern changes the logits) and ``own_attention`` (what a
    bridge computes in place of a Hugging Face module is what that module gives; ``asked_attention`` where
    the module cannot be asked). Hooks at the model's hook points are set aside: the outcome is the model's.

    Raises:
        InputError: for a model that cannot be run at all.
    """
    # Dropout would look like a broken hook, and so would an edit.
    with evaluation_mode(model), points_set_aside([as_module(model)]):
        return _check(model)


def _check(model: Model) -> SelfCheck:
    tokens = torch.arange(1, _TOKENS + 1, device=model.cfg.device)[None] % model.cfg.d_vocab
    seen: dict[str, Tensor] = {}
    names = [name for name in _names(model) if name in model.hook_dict]
    try:
        with AttentionCheck(model) as attention:
            logits = run(model, tokens, [(name, _keep(seen, name)) for name in names])
    except Exception as error:  # whatever an architecture, or a hook of the user's, may raise
        raise InputError(
            f"{model.cfg.model_name}: TransformerLens cannot run this model ({type(error).__name__}: "
            f"{one_line(error, 200)}); another version of it, or its other model class, may"
        ) from error
    assert logits is not None
    tolerance = 1e-4 if logits.dtype in (torch.float32, torch.float64) else 0.05

    sums = [seen[name].float().sum(-1) for name in names if name.endswith("hook_pattern")]
    learned_sink = _has_sink_logits(model) and _leave_room(sums, tolerance)
    found = {
        "pattern_rows": _pattern_rows(sums, model.cfg.n_layers, learned_sink, tolerance),
        "value_rows": _value_rows(model, seen, tolerance),
        "residual_sum": _residual_sum(model, seen, tolerance),
        "final_readout": _final_readout(model, seen, logits, tolerance),
        "pattern_edits": _pattern_edits(model, tokens, logits),
    }
    failed = {name: why for name, why in found.items() if why is not None}
    return SelfCheck(failed | attention.failed(tolerance), learned_sink)


def _names(model: Model) -> list[str]:
    per_block = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    names = []
    for layer in range(model.cfg.n_layers):
        names += [
            f"blocks.{layer}.{name}"
            for name in (*per_block, "attn.hook_pattern", "attn.hook_v", "attn.hook_z")
        ]
    return names


def _keep(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(tensor: Tensor, hook: object) -> None:
        seen[name] = tensor.detach().clone()

    return hook


def _has_sink_logits(model: Model) -> bool:
    """A logit a head that takes part in the softmax and is dropped: both model classes call them sinks."""
    return any(name.endswith(".sinks") for name, _ in as_module(model).named_parameters())


def _leave_room(sums: list[Tensor], tolerance: float) -> bool:
    """Rows of all patterns sum to at most one, some to clearly less, and not all of a pattern to nothing."""
    if not sums:
        return False
    allowed = all(bool(((rows >= 0) & (rows <= 1 + tolerance)).all() & (rows > 0).any()) for rows in sums)
    return allowed and any(bool((rows < 1 - 2 * tolerance).any()) for rows in sums)


def _pattern_rows(sums: list[Tensor], n_layers: int, learned_sink: bool, tolerance: float) -> str | None:
    if not sums:
        return "no attention pattern fires"
    if len(sums) < n_layers:  # blocks of another kind between those with attention
        return f"{n_layers - len(sums)} of {n_layers} blocks have no attention pattern"
    worst = float(torch.stack([(rows - 1).abs().max() for rows in sums]).max())
    # Written so that NaN fails.
    if not worst <= tolerance and not learned_sink:
        return f"rows of a pattern sum to 1 only within {worst:.2g}"
    return None


def _value_rows(model: Model, seen: Mapping[str, Tensor], tolerance: float) -> str | None:
    """Value vectors may be normed after their hook point, or lie in another order than their name says."""
    errors = []
    for layer in range(model.cfg.n_layers):
        pattern, values, heads = (
            seen.get(f"blocks.{layer}.attn.hook_{name}") for name in ("pattern", "v", "z")
        )
        if pattern is None or values is None or heads is None:
            continue
        if values.ndim != 4 or values.shape[1] != pattern.shape[-1] or pattern.shape[1] % values.shape[2]:
            return f"the value vectors of block {layer} have the shape {tuple(values.shape)}"
        each = values.repeat_interleave(pattern.shape[1] // values.shape[2], dim=2)
        summed = torch.einsum("bhqk,bkhd->bqhd", pattern.float(), each.float()).flatten()
        given = heads.float().flatten()
        if summed.shape != given.shape:
            return f"the heads of block {layer} give {len(given)} numbers, their values {len(summed)}"
        # A layer whose values are all zero is right, too.
        errors.append((summed - given).norm() / given.norm().clamp(min=_TINY))
    worst = float(torch.stack([error.cpu() for error in errors]).max()) if errors else 0.0
    if not worst <= tolerance:
        return f"patterns times value vectors differ from what the heads give by {worst:.2g}"
    return None


def _residual_sum(model: Model, seen: Mapping[str, Tensor], tolerance: float) -> str | None:
    errors = []
    for layer in range(model.cfg.n_layers):
        block = f"blocks.{layer}."
        parts = [seen.get(block + name) for name in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")]
        post = seen.get(block + "hook_resid_post")
        if post is None or any(part is None for part in parts):
            return f"block {layer} lacks one of resid_pre, attn_out, mlp_out, resid_post"
        total = torch.stack([part.float() for part in parts if part is not None]).sum(0)
        errors.append((total - post.float()).norm() / post.float().norm())
    worst = float(torch.stack([error.cpu() for error in errors]).max())
    if not worst <= tolerance:
        return f"resid_pre + attn_out + mlp_out differs from resid_post by {worst:.2g}"
    return None


def _final_readout(model: Model, seen: Mapping[str, Tensor], logits: Tensor, tolerance: float) -> str | None:
    last = seen.get(f"blocks.{model.cfg.n_layers - 1}.hook_resid_post")
    if last is None:
        return "the last block has no resid_post"
    norm, unembed = getattr(model, "ln_final", None), getattr(model, "unembed", None)
    if norm is None or unembed is None:
        return "the architecture has no final norm, or no unembedding"
    with torch.no_grad():
        read = unembed(norm(last))
    cap = getattr(model.cfg, "output_logits_soft_cap", -1.0)
    if cap and cap > 0:
        read = cap * torch.tanh(read.float() / cap)
    error = logit_error(read, logits)
    if not error <= tolerance:
        return f"unembed(ln_final(last depth)) differs from the logits by {error:.2g}"
    return None


def _pattern_edits(model: Model, tokens: Tensor, logits: Tensor) -> str | None:
    name = "blocks.0.attn.hook_pattern"
    if name not in model.hook_dict:
        return "no attention pattern fires"

    def only_first_key(pattern: Tensor, hook: object) -> Tensor:
        edited = torch.zeros_like(pattern)
        edited[..., 0] = 1.0
        return edited

    edited = run(model, tokens, [(name, only_first_key)])
    assert edited is not None
    if torch.equal(edited, logits):
        return "edits of attention patterns are discarded by this architecture"
    return None
