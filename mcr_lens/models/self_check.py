"""What a loaded model must satisfy for its hooks to mean what their names say."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mcr_lens.errors import InputError, one_line
from mcr_lens.models.backend import Model, as_module, evaluation_mode, new_cache, run
from mcr_lens.models.own_attention import AttentionCheck
from mcr_lens.models.unembed import read_out
from mcr_lens.models.user_hooks import points_set_aside

__all__ = ["SelfCheck", "cache_check", "logit_error", "self_check"]

_READ = (
    "hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post",
    "attn.hook_pattern", "attn.hook_v", "attn.hook_z",
)  # fmt: skip


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


def cache_check(model: Model) -> str | None:
    """What goes wrong when a model is fed in chunks; ``None`` when nothing was found.

    Six tokens, whole and as two and four, must give the same logits for the last four. So a position or a
    mask that forgets what the cache holds is found; what only happens beyond a sliding window is not.
    """
    tokens = _tokens(model)
    with evaluation_mode(model):
        whole = run(model, tokens, [])
        try:
            cache = new_cache(model, 1)
            run(model, tokens[:, :2], [], cache=cache)
            rest = run(model, tokens[:, 2:], [], cache=cache)
        except Exception as error:  # an architecture may have another kind of memory, or none
            return f"it does not run through a KV cache ({type(error).__name__}: {one_line(error, 200)})"
    assert whole is not None and rest is not None
    difference = logit_error(rest, whole[:, 2:])
    if not difference <= _tolerance(whole):
        return f"through its KV cache the logits differ by {difference:.2g}"
    return None


def logit_error(found: Float[Tensor, "*batch vocab"], expected: Float[Tensor, "*batch vocab"]) -> float:
    """``||found - expected|| / ||expected||`` over all logits, in float32.

    In float16 both ways may overflow, and then agree: Inf counts as the end of the dtype, and what is NaN in
    both is left out. NaN where nothing is left, and where one of them alone is NaN.

    Example:
        >>> logit_error(torch.tensor([3.0, torch.nan]), torch.tensor([4.0, torch.nan]))
        0.25
    """
    found = found.to(expected.device)
    known = ~(found.isnan() & expected.isnan())
    ends = [torch.finfo(logits.dtype).max for logits in (found, expected)]
    first, second = (
        logits[known].float().nan_to_num(nan=torch.nan, posinf=end, neginf=-end)
        for logits, end in zip((found, expected), ends, strict=True)
    )
    return float((first - second).norm() / second.norm())


def _tokens(model: Model) -> Tensor:
    return torch.arange(1, 7, device=model.cfg.device)[None] % model.cfg.d_vocab


def _tolerance(logits: Tensor) -> float:
    return 1e-4 if logits.dtype in (torch.float32, torch.float64) else 0.05


def _check(model: Model) -> SelfCheck:
    tokens = _tokens(model)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda tensor, hook: seen.__setitem__(name, tensor.detach().clone())

    names = [f"blocks.{layer}.{name}" for layer in range(model.cfg.n_layers) for name in _READ]
    names = [name for name in names if name in model.hook_dict]
    try:
        with AttentionCheck(model) as attention:
            logits = run(model, tokens, [(name, keep(name)) for name in names])
    except Exception as error:  # whatever an architecture, or a hook of the user's, may raise
        raise InputError(
            f"{model.cfg.model_name}: TransformerLens cannot run this model ({type(error).__name__}: "
            f"{one_line(error, 200)}); another version of it, or its other model class, may"
        ) from error
    assert logits is not None
    tolerance = _tolerance(logits)
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


def _has_sink_logits(model: Model) -> bool:
    """A logit a head that takes part in the softmax and is dropped: both model classes call them sinks."""
    return any(name.endswith(".sinks") for name, _ in as_module(model).named_parameters())


def _leave_room(sums: list[Tensor], tolerance: float) -> bool:
    """Rows of all patterns sum to at most one, some to clearly less, and not all of a pattern to nothing."""
    allowed = all(bool(((rows >= 0) & (rows <= 1 + tolerance)).all() & (rows > 0).any()) for rows in sums)
    return allowed and any(bool((rows < 1 - 2 * tolerance).any()) for rows in sums)


def _pattern_rows(sums: list[Tensor], n_layers: int, learned_sink: bool, tolerance: float) -> str | None:
    if not sums:
        return "no attention pattern fires"
    if len(sums) < n_layers:  # blocks of another kind between those with attention
        return f"{n_layers - len(sums)} of {n_layers} blocks have no attention pattern"
    worst = _worst([(rows - 1).abs().max() for rows in sums])
    if not worst <= tolerance and not learned_sink:
        return f"rows of a pattern sum to 1 only within {worst:.2g}"
    return None


def _value_rows(model: Model, seen: Mapping[str, Tensor], tolerance: float) -> str | None:
    """Value vectors may be normed after their hook point, or lie in another order than their name says."""
    errors = []
    for layer, parts in _parts(model, seen, _READ[4:]):
        if any(part is None for part in parts):
            continue
        pattern, values, heads = (part.float() for part in parts if part is not None)
        if values.ndim != 4 or values.shape[1] != pattern.shape[-1] or pattern.shape[1] % values.shape[2]:
            return f"the value vectors of block {layer} have the shape {tuple(values.shape)}"
        each = values.repeat_interleave(pattern.shape[1] // values.shape[2], dim=2)
        summed, given = torch.einsum("bhqk,bkhd->bqhd", pattern, each).flatten(), heads.flatten()
        if summed.shape != given.shape:
            return f"the heads of block {layer} give {len(given)} numbers, their values {len(summed)}"
        # A layer whose values are all zero is right, too.
        errors.append((summed - given).norm() / given.norm().clamp(min=torch.finfo(torch.float32).tiny))
    if errors and not (worst := _worst(errors)) <= tolerance:
        return f"patterns times value vectors differ from what the heads give by {worst:.2g}"
    return None


def _residual_sum(model: Model, seen: Mapping[str, Tensor], tolerance: float) -> str | None:
    errors = []
    for layer, parts in _parts(model, seen, _READ[:4]):
        if any(part is None for part in parts):
            return f"block {layer} lacks one of resid_pre, attn_out, mlp_out, resid_post"
        *writes, post = (part.float() for part in parts if part is not None)
        errors.append((torch.stack(writes).sum(0) - post).norm() / post.norm())
    if errors and not (worst := _worst(errors)) <= tolerance:
        return f"resid_pre + attn_out + mlp_out differs from resid_post by {worst:.2g}"
    return None


def _parts(
    model: Model, seen: Mapping[str, Tensor], names: tuple[str, ...]
) -> Iterator[tuple[int, list[Tensor | None]]]:
    """What was read at hook points of each block."""
    for layer in range(model.cfg.n_layers):
        yield layer, [seen.get(f"blocks.{layer}.{name}") for name in names]


def _worst(errors: list[Tensor]) -> float:
    """The largest, NaN if there is one: compared as ``not worst <= tolerance`` it fails."""
    return float(torch.stack([error.cpu() for error in errors]).max())


def _final_readout(model: Model, seen: Mapping[str, Tensor], logits: Tensor, tolerance: float) -> str | None:
    last = seen.get(f"blocks.{model.cfg.n_layers - 1}.hook_resid_post")
    if last is None:
        return "the last block has no resid_post"
    if getattr(model, "ln_final", None) is None or getattr(model, "unembed", None) is None:
        return "the architecture has no final norm, or no unembedding"
    error = logit_error(read_out(model, last), logits)
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

    edited_logits = run(model, tokens, [(name, only_first_key)])
    assert edited_logits is not None
    if torch.equal(edited_logits, logits):
        return "edits of attention patterns are discarded by this architecture"
    return None
