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
# Libraries whose own hooks of PyTorch do their work and are not the user's.
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
    # The bridge lists one hook point under several names, behind stand-ins in compatibility mode.
    points: dict[int, tuple[str, Any]] = {}
    for name, alias in model.hook_dict.items():
        point = getattr(alias, "_target", alias)
        points.setdefault(id(point), (name, point))
    return [name for name, point in points.values() for _ in point.fwd_hooks] + torch_hooks(model)


def torch_hooks(model: Model) -> list[str]:
    """Those of them that are PyTorch's own; what libraries have hung up is not among them."""
    return [
        f"torch: {name}"
        for name, module in as_module(model).named_modules()
        for kind in _FORWARD
        for hook in getattr(module, kind, {}).values()
        if (getattr(hook, "__module__", None) or type(hook).__module__).partition(".")[0] not in _LIBRARIES
    ]


@contextlib.contextmanager
def points_set_aside(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Nobody's hooks at the hook points of these parts of a model, for the time being.

    Modules keep their hooks of PyTorch's own: those may be what makes them work, and libraries add to them.
    """
    points: list[Any] = [
        module for part in parts for module in part.modules() if isinstance(module, HookPoint)
    ]
    hooks = [{name: dict(getattr(point, name)) for name in _OF_POINTS} for point in points]
    lists = [(point.fwd_hooks, point.bwd_hooks) for point in points]
    for point in points:
        for name in _OF_POINTS:
            getattr(point, name).clear()
        point.fwd_hooks, point.bwd_hooks = [], []
    try:
        yield
    finally:
        for point, before, (forward, backward) in zip(points, hooks, lists, strict=True):
            for name, earlier in before.items():
                present = getattr(point, name)
                later = dict(present)
                present.clear()
                present.update(earlier | later)
            # The bridge's norm looks at these to choose its arithmetic.
            point.fwd_hooks, point.bwd_hooks = forward + point.fwd_hooks, backward + point.bwd_hooks
