"""What every intervention is made of: edits at named hook points, each placed by where its block stands.

An intervention is a plain list of ``(hook name, function)``, one pair per layer. The functions keep no state.
They carry what they do in an attribute, ``intervention``, so that results can record it and the engine can
refuse layers, heads and positions that a model or its prompts do not have.
"""

import difflib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext, context_at, is_pattern
from mcr_lens.hooks.interventions.positions import PositionTuple, locate
from mcr_lens.models.backend import Hook, Model
from mcr_lens.models.info import ModelFacts, model_facts
from mcr_lens.models.passes import current_pass, failed_checks, follow, is_second_call
from mcr_lens.validate import is_number

__all__ = [
    "Edit",
    "Indices",
    "Intervention",
    "Rows",
    "build",
    "check_dose",
    "check_names",
    "edit_rows",
]

Edit = Callable[[Tensor, BatchContext], Tensor | None]
Indices = int | Iterable[int]
# Self-checks that an intervention relies on, and what is said where a model fails one.
Need = Literal["pattern_edits", "residual_sum"]
_WITHOUT = {"pattern_edits": "has no effect", "residual_sum": "would not take a whole write"}


@dataclass(frozen=True, eq=False)
class Intervention:
    """What one call edits.

    Attributes:
        call: name of the public function.
        settings: its arguments, for the record.
        positions: as ``position_tuple`` gives them; ``None`` for all.
        heads: query heads it names.
        need: an edited pattern has an effect; or what a block adds is its two writes and no more.
    """

    call: str
    settings: Mapping[str, Any]
    positions: PositionTuple | None = None
    heads: tuple[int, ...] = ()
    need: Need | None = None

    def __str__(self) -> str:
        return f"{self.call}({', '.join(f'{name}={value}' for name, value in self.settings.items())})"

    def check(self, model: Model, facts: ModelFacts) -> None:
        """Refuse heads that the model does not have, and edits that it does not show."""
        absent = [head for head in self.heads if head >= facts.n_heads]
        if absent:
            raise InputError(
                f"{self.call}: heads {absent} of {facts.name}: there are heads 0..{facts.n_heads - 1}"
            )
        # Without MLPs there is no sum of two to check, and the attention's write is all there is.
        if self.need != "residual_sum" or "blocks.0.hook_mlp_out" in model.hook_dict:
            self.refuse_failed(facts.failed_checks, f"{facts.name} ({facts.backend})")

    def refuse_failed(self, failed: Mapping[str, str], model: str) -> None:
        """Refuse a model whose self-check found broken what this needs."""
        if self.need is not None and self.need in failed:
            raise InputError(f"{self.call} {_WITHOUT[self.need]} on {model}: {failed[self.need]}")


class Rows(NamedTuple):
    """The ``n`` rows of a block that an edit is for, with the whole of it.

    Attributes:
        prompts: of the batch, one for each row.
        positions: in its prompt.
        at: in the block.
    """

    activation: Tensor
    context: BatchContext
    prompts: Int[Tensor, "n"]
    positions: Int[Tensor, "n"]
    at: Int[Tensor, "n"]


RowEdit = Callable[[Float[Tensor, "n ..."], Rows], Tensor | None]


def edit_rows(intervention: Intervention, edits: Mapping[str, RowEdit], model: Model | None) -> list[Hook]:
    """``build`` for edits of the rows at the intervention's positions.

    Args:
        edits: by hook name. An edit gets a copy of the rows, ``(n, ...)`` or of a pattern ``(n, head, key)``,
            and where they stand; it returns them changed, or ``None`` to leave them.
    """
    each = {name: partial(_edit_rows, name=name, this=intervention, edit=e) for name, e in edits.items()}
    return build(intervention, each, model)


def _edit_rows(
    activation: Tensor, context: BatchContext, name: str, this: Intervention, edit: RowEdit
) -> Tensor | None:
    batch, n_rows = len(activation), rows_of(name, activation)
    rows = Rows(activation, context, *locate(this.positions, context, batch, n_rows, this.call))
    if not len(rows.prompts):
        return None
    at = (rows.prompts, slice(None), rows.at) if is_pattern(name) else (rows.prompts, rows.at)
    values = edit(activation[at], rows)
    if values is None:
        return None
    edited = activation.clone()
    edited[at] = values.to(edited)
    return edited


def build(intervention: Intervention, edits: Mapping[str, Edit], model: Model | None) -> list[Hook]:
    """The list of hooks.

    Args:
        edits: by hook name. An edit gets the activation and where it stands; it returns a changed copy,
            or ``None`` to leave it.
        model: check against it now, and follow its passes from now on.
    """
    if model is not None:
        facts = model_facts(model)
        check_names(model, facts, list(edits))
        intervention.check(model, facts)
        follow(model, facts.failed_checks)
    return [(name, _hook(intervention, name, edit)) for name, edit in edits.items()]


def _hook(intervention: Intervention, name: str, edit: Edit) -> Callable[..., Tensor | None]:
    def hook_function(activation: Tensor, hook: Any) -> Tensor | None:
        if is_second_call(hook):
            return None
        context = context_at(hook)
        if context is None:
            raise InputError(_unknown_place(intervention.call, name))
        intervention.refuse_failed(failed_checks(hook), "this model")
        rows, here = rows_of(name, activation), current_pass(hook)
        if here is not None and here.shape != (len(activation), rows):
            raise InputError(
                f"{intervention.call}: {name} has shape {tuple(activation.shape)} where the pass has "
                f"{here.shape[0]} prompts of {here.shape[1]} rows: it has no row for each token"
            )
        if here is not None and here.mask is None and context.mask is not None:
            warnings.warn(
                "ids at the ends of these prompts look like padding and count as such: attention_mask= says "
                "which are tokens",
                stacklevel=2,
            )
        seen = context.offset + rows
        if context.mask is not None and context.mask.shape[1] != seen:
            raise InputError(
                f"{intervention.call}: the attention mask has {context.mask.shape[1]} columns for {seen} "
                "tokens: give one of the whole sequence, the tokens in the cache included"
            )
        edited = edit(activation, context)
        return None if edited is None else edited.to(activation.dtype)

    hook_function.intervention = intervention  # type: ignore[attr-defined]
    return hook_function


def _unknown_place(call: str, name: str) -> str:
    if not name.startswith("blocks."):
        return (
            f"{call}: {name} is outside the blocks, where HookedTransformer does not say at which positions "
            "a pass stands: edit blocks.0.hook_resid_pre or the last hook_resid_post, or use mcr_lens.measure"
        )
    return (
        f"{call}: nothing says at which positions this pass stands: run it inside "
        "`with mcr.generating(model):`, or give model= to the call, or pass the model through mcr.load_model"
    )


def rows_of(name: str, activation: Tensor) -> int:
    """Rows of the sequence that a hook point's activation has."""
    return activation.shape[2 if is_pattern(name) else 1]


def check_dose(dose: float, call: str) -> None:
    """Raise ``InputError`` for anything but a number from 0 to 1."""
    if not is_number(dose) or not 0 <= dose <= 1:
        raise InputError(f"{call}: dose {dose!r}: use 0 (untouched) to 1 (all of it)")


def check_names(model: Model, facts: ModelFacts, names: Sequence[str]) -> None:
    """Raise ``InputError`` for a hook name that the model does not have; TransformerLens may ignore it."""
    known = model.hook_dict
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or list(known)[:3]
            raise InputError(
                f"{facts.name} has no hook {name!r}; its layers are 0..{facts.n_layers - 1}, "
                f"and there are {', '.join(near)} ..."
            )
