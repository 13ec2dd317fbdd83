"""Does a model give the same when it is fed in chunks through its KV cache? Asked before the first run."""

from typing import Any
from weakref import WeakKeyDictionary

import torch

from mcr_lens.errors import InputError, one_line
from mcr_lens.models.backend import Model, evaluation_mode, new_cache, run
from mcr_lens.models.info import ModelFacts, model_facts
from mcr_lens.models.logit_error import logit_error

__all__ = ["cache_fault", "require_cache"]

_TOKENS, _FIRST = 6, 2
# What was found, with the facts of the model that it was found on.
_FOUND: WeakKeyDictionary[Any, tuple[ModelFacts, str | None]] = WeakKeyDictionary()


def require_cache(model: Model, call: str) -> None:
    """Refuse a call that feeds a model in chunks where that makes another function of it.

    Raises:
        InputError: naming the call and what ``cache_fault`` found.
    """
    why = cache_fault(model)
    if why is not None:
        facts = model_facts(model)
        raise InputError(
            f"{call} cannot be trusted on {facts.name} ({facts.backend}): {why}; give whole prompts, or try "
            "another version of transformer-lens"
        )


def cache_fault(model: Model) -> str | None:
    """What goes wrong when a model is fed in chunks; ``None`` when nothing was found.

    Six tokens, whole and as two and four, must give the same logits for the last four. So a position or a
    mask that forgets what the cache holds is found; what only happens beyond a sliding window is not.
    """
    facts = model_facts(model)
    if model not in _FOUND or _FOUND[model][0] != facts:
        _FOUND[model] = (facts, _compare(model))
    return _FOUND[model][1]


def _compare(model: Model) -> str | None:
    tokens = torch.arange(1, _TOKENS + 1, device=model.cfg.device)[None] % model.cfg.d_vocab
    with evaluation_mode(model):
        whole = run(model, tokens, [])
        try:
            cache = new_cache(model, 1)
            run(model, tokens[:, :_FIRST], [], cache=cache)
            rest = run(model, tokens[:, _FIRST:], [], cache=cache)
        except Exception as error:  # an architecture may have another kind of memory, or none
            return f"it does not run through a KV cache ({type(error).__name__}: {one_line(error, 200)})"
    assert whole is not None
    assert rest is not None
    difference = logit_error(rest, whole[:, _FIRST:])
    if not difference <= (1e-4 if whole.dtype in (torch.float32, torch.float64) else 0.05):
        return f"through its KV cache the logits differ by {difference:.2g}"
    return None
