"""Hooks that a model already carries when it is measured: they stay, they run, and a result says so."""

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from transformer_lens.hook_points import HookPoint

from mcr_lens.models.backend import Model, as_module

__all__ = ["attached_hooks", "hooks_set_aside"]

_FORWARD = ("_forward_pre_hooks", "_forward_hooks")
_OF_MODULES = (*_FORWARD, "_backward_pre_hooks", "_backward_hooks")
_OF_POINTS = ("fwd_hooks", "bwd_hooks")
# Hooks of PyTorch's that libraries hang up themselves, to do their work.
_LIBRARIES = ("transformers", "transformer_lens", "accelerate", "mcr_lens")


def attached_hooks(model: Model) -> list[str]:
    """The places that the user has hung forward hooks on, each once for every hook, in their own order.

    First hook points by their names, then modules with hooks of PyTorch's own, as ``"torch: blocks.1.mlp"``.
    ``measure`` leaves such hooks where they are, so what they change is part of what is measured.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> _ = model.hook_dict["blocks.1.hook_mlp_out"].add_hook(lambda tensor, hook: tensor * 0)
        >>> len(attached_hooks(model))
        1
        >>> model.reset_hooks()
        >>> attached_hooks(model)
        []
    """
    found, seen = [], set()
    for name, point in model.hook_dict.items():
        # The bridge lists one hook point under several names, behind stand-ins in compatibility mode.
        point = getattr(point, "_target", point)
        if id(point) not in seen:
            seen.add(id(point))
            found += [name] * len(point.fwd_hooks)
    for name, module in as_module(model).named_modules():
        hooks = [hook for kind in _FORWARD for hook in getattr(module, kind, {}).values()]
        found += [f"torch: {name}"] * sum(not _is_of_a_library(hook) for hook in hooks)
    return found


@contextlib.contextmanager
def hooks_set_aside(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Nobody's hooks in these parts of a model, for the time being; those of libraries do their work."""
    kept: list[tuple[nn.Module, str, Any]] = []
    try:
        for module in (module for part in parts for module in part.modules()):
            is_point = isinstance(module, HookPoint)
            for name in _OF_MODULES:
                hooks = getattr(module, name, None)
                if hooks:
                    rest = (
                        {} if is_point else {i: hook for i, hook in hooks.items() if _is_of_a_library(hook)}
                    )
                    kept.append((module, name, hooks))
                    setattr(module, name, OrderedDict(rest))
            # The bridge's norm looks at these to choose its arithmetic.
            for name in _OF_POINTS if is_point else ():
                kept.append((module, name, getattr(module, name)))
                setattr(module, name, [])
        yield
    finally:
        for module, name, hooks in reversed(kept):
            setattr(module, name, hooks)


def _is_of_a_library(hook: Any) -> bool:
    made_in = getattr(hook, "__module__", None) or type(hook).__module__
    return made_in.partition(".")[0] in _LIBRARIES
