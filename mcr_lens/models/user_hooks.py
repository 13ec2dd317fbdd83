"""Hooks that a model already carries when it is measured: they stay, they run, and a result says so."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from transformer_lens.hook_points import HookPoint

from mcr_lens.models.backend import Model, as_module

__all__ = ["attached_hooks", "points_set_aside", "torch_hooks"]

_FORWARD = ("_forward_pre_hooks", "_forward_hooks")
_OF_POINTS = (*_FORWARD, "_backward_pre_hooks", "_backward_hooks")
# What of PyTorch's hooks libraries hang up themselves, to do their work.
_LIBRARIES = ("torch", "transformers", "transformer_lens", "accelerate", "peft", "bitsandbytes", "mcr_lens")


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
    return found + torch_hooks(model)


def torch_hooks(model: Model) -> list[str]:
    """Those of them that are PyTorch's own; what libraries have hung up is not among them."""
    found = []
    for name, module in as_module(model).named_modules():
        hooks = [hook for kind in _FORWARD for hook in getattr(module, kind, {}).values()]
        found += [f"torch: {name}"] * sum(not _is_of_a_library(hook) for hook in hooks)
    return found


@contextlib.contextmanager
def points_set_aside(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Nobody's hooks at the hook points of these parts of a model, for the time being.

    Modules keep their hooks of PyTorch's own: those may be what makes them work, and libraries add to them.
    """
    points = [module for part in parts for module in part.modules() if isinstance(module, HookPoint)]
    kept = [(point, _taken_off(point)) for point in points]
    try:
        yield
    finally:
        for point, (hung, lists) in kept:
            for name, hooks in hung.items():
                now = getattr(point, name)
                later = dict(now)
                now.clear()
                now.update(hooks | later)
            # The bridge's norm looks at these to choose its arithmetic.
            point.fwd_hooks, point.bwd_hooks = (
                [*before, *now] for before, now in zip(lists, (point.fwd_hooks, point.bwd_hooks), strict=True)
            )


def _taken_off(point: HookPoint) -> tuple[dict[str, dict[int, Any]], tuple[list[Any], list[Any]]]:
    hung = {name: dict(getattr(point, name)) for name in _OF_POINTS}
    for name in _OF_POINTS:
        getattr(point, name).clear()
    lists = point.fwd_hooks, point.bwd_hooks
    point.fwd_hooks, point.bwd_hooks = [], []
    return hung, lists


def _is_of_a_library(hook: Any) -> bool:
    made_in = getattr(hook, "__module__", None) or type(hook).__module__
    return made_in.partition(".")[0] in _LIBRARIES
