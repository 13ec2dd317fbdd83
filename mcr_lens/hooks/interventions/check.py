"""What the engine asks of a list of hooks before it runs it, ours and a user's own alike."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.interventions.base import Intervention, check_names
from mcr_lens.models.backend import Hook, Model
from mcr_lens.models.info import model_facts

__all__ = [
    "check_hooks",
    "described",
    "keep_shapes",
    "warn_of_chunks",
]


def check_hooks(model: Model, hooks: Sequence[Hook], shortest: int | None = None) -> None:
    """Refuse hooks, layers, heads and positions that a model or its prompts do not have.

    Args:
        shortest: tokens of the shortest prompt.
    """
    facts = model_facts(model)
    for hook in hooks:
        if not (isinstance(hook, tuple | list) and len(hook) == 2 and callable(hook[1])):
            raise InputError(f"{hook!r} is no hook: interventions are a list of (hook name, function)")
        _check_arguments(*hook)
    for intervention in {_intervention_of(function): None for _, function in hooks}:
        if intervention is None:
            continue
        intervention.check(model, facts)
        for position in intervention.positions or ():
            if shortest is not None and isinstance(position, int) and not -shortest <= position < shortest:
                raise InputError(
                    f"{intervention.call}: position {position}: the shortest prompt has {shortest} tokens, "
                    f"0..{shortest - 1}"
                )
    check_names(model, facts, [name for name, _ in hooks if isinstance(name, str)])


def _check_arguments(name: object, function: Callable[..., Any]) -> None:
    try:
        inspect.signature(function).bind(None, hook=None)
    except TypeError as error:
        raise InputError(
            f"the function at {name!r} does not take (tensor, hook): TransformerLens calls it so ({error})"
        ) from error
    except ValueError:  # a function of C, which does not tell
        pass


def keep_shapes(hooks: Sequence[Hook]) -> list[Hook]:
    """The hooks, those of the user's own watched: what returns another shape is refused by name."""
    return [
        (name, function if _intervention_of(function) else partial(_same_shape, name, function))
        for name, function in hooks
    ]


def _same_shape(name: object, function: Callable[..., Any], activation: Any, hook: Any) -> Any:
    edited = function(activation, hook=hook)
    if isinstance(activation, Tensor) and edited is not None:
        shape = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
        if shape != tuple(activation.shape):
            raise InputError(
                f"the hook at {name if isinstance(name, str) else hook.name} returned {shape} for "
                f"{tuple(activation.shape)}: return a tensor of the same shape, or None to change nothing"
            )
    return edited


def warn_of_chunks(hooks: Sequence[Hook]) -> None:
    """Say of a user's own hooks that each chunk is another tensor to them."""
    own = [name if isinstance(name, str) else "a filter" for name, f in hooks if not _intervention_of(f)]
    if own:
        warnings.warn(
            f"chunk= runs your hook at {own[0]} on each chunk by itself, so its row 0 is not the prompt's "
            "position 0: mcr_lens.intervention(at, function, positions) edits a prompt's positions once",
            stacklevel=3,
        )


def described(hooks: Sequence[Hook]) -> list[str]:
    """What a result records of its interventions: ours once with their settings, plain hooks by name."""
    lines: dict[object, str] = {}
    for number, (name, function) in enumerate(hooks):
        intervention = _intervention_of(function)
        own = name if isinstance(name, str) else "filter"
        lines.setdefault(intervention or number, str(intervention) if intervention else own)
    return list(lines.values())


def _intervention_of(function: Callable[..., Any]) -> Intervention | None:
    return getattr(function, "intervention", None)
