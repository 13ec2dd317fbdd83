"""What every intervention is made of: edits at named hook points, checked before they are trusted.

An intervention is a plain list of ``(hook name, function)``. The functions made here carry what they do in
an attribute, ``intervention``, so that results can record it and bad layers, heads and positions are refused
when the list is attached: by the engine, or on the first forward pass of a model that is known: from
``load_model``, measured before, or given as ``model=``.

A plain ``run_with_hooks`` is not ours. HookedTransformer, and every model of TransformerLens 4, looks hook
names up before any hook runs, so a wrong layer gets TransformerLens's own ``KeyError``, without the valid
range. A bridge of TransformerLens 3 ignores unknown names, so on one that is not known a wrong layer does
nothing. With ``model=`` the call itself refuses, everywhere.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any
from weakref import WeakSet

from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext, is_running
from mcr_lens.hooks.positions import Position, check_position
from mcr_lens.hooks.record import is_pattern
from mcr_lens.hooks.sequence import FIRST_OUTPUT, FIRST_PATTERN, Follower
from mcr_lens.models.backend import Hook, Model
from mcr_lens.models.info import ModelFacts, model_facts, owner_of
from mcr_lens.validate import is_whole

__all__ = [
    "Edit",
    "Intervention",
    "check_hooks",
    "described",
    "edits_a_pattern",
    "indices",
    "intervene",
]

Edit = Callable[[Tensor, BatchContext], Tensor | None]


@dataclass(frozen=True, eq=False)
class Intervention:
    """What one call edits.

    Attributes:
        call: name of the public function.
        settings: its arguments, for the record.
        hook_names: the points that are edited.
        positions: the positions that must exist in every prompt.
        heads: query heads it names.
        edits_pattern: whether it depends on an edited attention pattern having an effect.
        edits_write: whether it depends on what a block adds being its two writes and no more.
    """

    call: str
    settings: Mapping[str, Any]
    hook_names: tuple[str, ...]
    positions: tuple[Position, ...] = ()
    heads: tuple[int, ...] = ()
    edits_pattern: bool = False
    edits_write: bool = False
    _checked: WeakSet[Any] = field(default_factory=WeakSet, repr=False)

    def __str__(self) -> str:
        return f"{self.call}({', '.join(f'{name}={value}' for name, value in self.settings.items())})"

    def check(self, model: Model, facts: ModelFacts) -> None:
        """Refuse what the model does not have, or cannot show; once a model."""
        if model in self._checked:
            return
        _check_names(model, facts, self.hook_names)
        wrong = [head for head in self.heads if head >= facts.n_heads]
        if wrong:
            raise InputError(
                f"{self.call}: heads {wrong} of {facts.name}: there are heads 0..{facts.n_heads - 1}"
            )
        if self.edits_pattern and "pattern_edits" in facts.failed_checks:
            raise InputError(
                f"{self.call} has no effect on {facts.name} ({facts.backend}): "
                f"{facts.failed_checks['pattern_edits']}"
            )
        # Without MLPs there is no sum of two to check, and the attention's write is all there is.
        if self.edits_write and "residual_sum" in facts.failed_checks and _has_mlp_write(model):
            raise InputError(
                f"{self.call} would not take a whole write on {facts.name} ({facts.backend}): "
                f"{facts.failed_checks['residual_sum']}"
            )
        self._checked.add(model)


def _has_mlp_write(model: Model) -> bool:
    return "blocks.0.hook_mlp_out" in model.hook_dict


def intervene(
    intervention: Intervention, edits: Mapping[str, Edit], model: Model | None = None
) -> list[Hook]:
    """The list of hooks: a look at block 0's pattern, then the edits.

    A list that edits patterns has a second look, at block 0's attention output: where that is there before
    the pattern, the pattern is a copy for show. So it refuses even on a model that was never checked.

    Args:
        edits: by hook name. An edit gets the activation and where it stands; it returns a changed copy,
            or ``None`` to leave it.
        model: check against it now.
    """
    for position in intervention.positions:
        check_position(position, intervention.call)
    if model is not None:
        intervention.check(model, model_facts(model))
    follower = Follower()

    def look(pattern: Tensor, hook: Any) -> None:
        if _is_repeated(hook):
            return
        owner = owner_of(hook)
        if owner is not None:
            intervention.check(*owner)
        follower.look(pattern, hook)

    def look_at_output(z: Tensor, hook: Any) -> None:
        if not (is_running() or _is_repeated(hook) or follower.was_looked_at(FIRST_OUTPUT)):
            raise InputError(
                f"{intervention.call} has no effect on this model: edits of attention patterns are discarded "
                "by this architecture"
            )

    hooks: list[Hook] = [(FIRST_PATTERN, look)]
    if intervention.edits_pattern:
        hooks.append((FIRST_OUTPUT, look_at_output))
    hooks += [(name, _hook(name, edit, follower)) for name, edit in edits.items()]
    for _, function in hooks:
        function.intervention = intervention  # type: ignore[attr-defined]
    return hooks


def _hook(name: str, edit: Edit, follower: Follower) -> Callable[..., Tensor | None]:
    def hook_function(activation: Tensor, hook: Any) -> Tensor | None:
        if _is_repeated(hook):
            return None
        rows = activation.shape[2 if is_pattern(name) else 1]
        edited = edit(activation, follower.context(name, rows))
        if edited is None:
            return None
        edited = edited.to(activation.dtype)
        if name == FIRST_PATTERN:
            follower.edited(edited)
        return edited

    return hook_function


def _is_repeated(hook: Any) -> bool:
    """In compatibility mode the bridge may call a hook twice, under the point's own name and another."""
    stands_for = getattr(hook, "_target", None)
    return stands_for is not None and hook.name == stands_for.name


def indices(values: int | Iterable[int], word: str, call: str) -> tuple[int, ...]:
    """Layers, heads or dimensions as a tuple without repetition.

    Raises:
        InputError: for none, anything but whole numbers from 0, or the same one twice.
    """
    if isinstance(values, str) or not isinstance(values, Integral | Iterable):
        raise InputError(f"{call}: {word}s {values!r}: use a whole number, or several")
    listed = (values,) if isinstance(values, Integral) else tuple(values)
    if not listed:
        raise InputError(f"{call}: no {word} given: name at least one")
    if not all(is_whole(x, 0) for x in listed):
        raise InputError(f"{call}: {word}s {list(listed)}: use whole numbers, counted from 0")
    if len(set(listed)) < len(listed):
        raise InputError(f"{call}: {word}s {list(listed)}: each once, a second time would edit the edit")
    return tuple(int(x) for x in listed)


def check_hooks(model: Model, hooks: Sequence[Hook], shortest: int | None = None) -> None:
    """Refuse hook names, layers, heads and positions that a model or its prompts do not have.

    Args:
        shortest: tokens of the shortest prompt.
    """
    facts = model_facts(model)
    for hook in hooks:
        if not (isinstance(hook, tuple | list) and len(hook) == 2 and callable(hook[1])):
            raise InputError(f"{hook!r} is no hook: interventions are a list of (hook name, function)")
    for made in {getattr(function, "intervention", None): None for _, function in hooks}:
        if made is None:
            continue
        made.check(model, facts)
        for position in made.positions:
            if shortest is not None and isinstance(position, int) and not -shortest <= position < shortest:
                raise InputError(
                    f"{made.call}: position {position}: the shortest prompt has {shortest} tokens, "
                    f"0..{shortest - 1}"
                )
    # TransformerLens ignores an unknown name on some of its lines: here it is an error on all.
    _check_names(model, facts, [name for name, _ in hooks if isinstance(name, str)])


def edits_a_pattern(hooks: Iterable[Hook]) -> bool:
    """Whether a list may empty a row of attention: ours say so, of others the name of the point tells."""
    return any(
        shapes_attention(str(name)) if made is None else made.edits_pattern
        for name, function in hooks
        for made in [getattr(function, "intervention", None)]
    )


def shapes_attention(hook_name: str) -> bool:
    """Whether an edit at a hook point may take a head's attention to some keys, or to all of them."""
    return "pattern" in hook_name or "attn_scores" in hook_name


def described(hooks: Sequence[Hook]) -> list[str]:
    """What a result records of its interventions: ours once with their settings, plain hooks by name."""
    lines: dict[object, str] = {}
    for number, (name, function) in enumerate(hooks):
        made = getattr(function, "intervention", None)
        lines.setdefault(made or number, str(made) if made else name if isinstance(name, str) else "filter")
    return list(lines.values())


def _check_names(model: Model, facts: ModelFacts, names: Sequence[str]) -> None:
    known = model.hook_dict
    for name in names:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=3) or list(known)[:3]
        raise InputError(
            f"{facts.name} has no hook {name!r}; its layers are 0..{facts.n_layers - 1}, "
            f"and there are {', '.join(near)} ..."
        )
