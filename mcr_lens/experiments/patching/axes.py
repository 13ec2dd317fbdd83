"""What a patching sweep runs over: hook names by layer, heads, positions; checked before the first run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from torch import Tensor
from transformer_lens.utilities.components_utils import get_act_name

from mcr_lens.engine import record
from mcr_lens.errors import InputError
from mcr_lens.hooks.interventions import check_hooks
from mcr_lens.hooks.record import is_pattern
from mcr_lens.models import Model, model_facts, require
from mcr_lens.prompts import Prompts
from mcr_lens.validate import check_indices

__all__ = ["SweepAxes", "sweep_axes"]


@dataclass(frozen=True)
class SweepAxes:
    """What is swept.

    Attributes:
        over: names of the axes, ``"layer"`` first.
        names: hook point of each layer.
        labels: of each axis, in the order of the result.
        heads: number of heads at each layer's hook point; 1 where it has none.
        together: positions that are patched together where ``"position"`` is not swept; ``None`` for all.
    """

    over: tuple[str, ...]
    names: Mapping[int, str]
    labels: Mapping[str, Sequence[int]]
    heads: Mapping[int, int]
    together: tuple[int, ...] | None

    def __len__(self) -> int:
        """Number of patches, all layers together."""
        return sum(1 for layer in self.names for _ in self.settings(layer))

    def settings(self, layer: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...] | None, int | None]]:
        """The patches of one layer: place in the result, positions and head (``None`` for all)."""
        swept = self.over[1:]
        for place in product(*(range(len(self.labels[axis])) for axis in swept)):
            at = {axis: self.labels[axis][i] for axis, i in zip(swept, place, strict=True)}
            if at.get("head", 0) < self.heads[layer]:  # layers of one model may differ
                positions = (at["position"],) if "position" in at else self.together
                yield (self.labels["layer"].index(layer), *place), positions, at.get("head")


def sweep_axes(
    model: Model,
    prompts: Prompts,
    hook: str,
    over: Sequence[str],
    positions: int | Iterable[int] | None,
    layers: int | Iterable[int] | None,
) -> SweepAxes:
    """The axes of a sweep; arguments and errors as in ``activation_patching``."""
    known = ("layer", "position", "head")
    if isinstance(over, str) or tuple(over[:1]) != ("layer",) or sorted({*over} & {*known}) != sorted(over):
        raise InputError(f"over={over!r}: use ('layer', 'position'), ('layer', 'head'), or all three")
    n_layers, longest = model_facts(model).n_layers, max(prompts.lengths)
    blocks = check_indices("layers", range(n_layers) if layers is None else layers, n_layers)
    at = None if positions is None else check_indices("positions", positions, longest, from_end=True)
    names = {layer: _hook_name(hook, layer) for layer in blocks}
    check_hooks(model, [(name, lambda activation, hook: None) for name in names.values()])
    if len(set(names.values())) < len(names):
        raise InputError(
            f"hook {hook!r} names its layer: give the name without it, or a template with "
            "{layer}, and choose with layers="
        )
    if is_pattern(names[blocks[0]]):
        require(model, "pattern_edits", f"activation_patching of {hook!r}")
    # One prompt shows whether the hooks fire, and how many heads each has.
    probe = record(model, prompts[:1], list(names.values()))
    heads = {layer: _n_heads(name, probe[name]) for layer, name in names.items()}
    if "head" in over and not all(heads.values()):
        raise InputError(f"hook {hook!r} has no heads: sweep over ('layer', 'position')")
    labels = {"layer": blocks, "head": range(max(heads.values())), "position": at or range(longest)}
    return SweepAxes(tuple(over), names, labels, {k: n or 1 for k, n in heads.items()}, at)


def _hook_name(hook: str, layer: int) -> str:
    if "{layer}" in hook:
        return hook.replace("{layer}", str(layer))
    return hook if "." in hook else get_act_name(hook.removeprefix("hook_"), layer)


def _n_heads(name: str, activation: Tensor) -> int:
    """Heads of an activation of one prompt; 0 where it has none."""
    return activation.shape[1 if is_pattern(name) else 2] if activation.ndim == 4 else 0
