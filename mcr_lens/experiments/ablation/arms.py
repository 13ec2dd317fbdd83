"""The conditions of an ablation study: treatments that end a massive activation, and matched controls."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from mcr_lens.errors import InputError
from mcr_lens.hooks import (
    ablate_attention_write,
    ablate_mlp_write,
    block_attention_to,
    clamp_norm,
    zero_dimensions,
)
from mcr_lens.models import Hook, Model, model_facts
from mcr_lens.phases import MIN_SHARE
from mcr_lens.results import Profile

__all__ = ["ARMS", "Arm", "Write", "build_arms", "massive_dimensions", "writes_of"]

Write = Literal["mlp", "attention"]
ARMS = ("write", "clamp", "dimensions", "block", "other token", "other layer")
# A dimension counts as massive when it is the largest in at least this share of the prompts.
_MIN_DIMENSION_SHARE = 0.1


@dataclass(frozen=True)
class Arm:
    """One condition.

    Attributes:
        name: as it stands in tables and figures; a control's begins with "control".
        what: a sentence on what is done at dose 1.
        hooks: the intervention, with ``dose=``.
        ends_norm: whether it is meant to end the massive norm, and not only what may follow from it.
    """

    name: str
    what: str
    hooks: Callable[..., list[Hook]]
    ends_norm: bool = False

    @property
    def kind(self) -> Literal["treatment", "control"]:
        """Whether it is one or the other."""
        return "control" if self.name.startswith("control") else "treatment"


def writes_of(profile: Profile, layers: Literal["emergence"] | Sequence[int]) -> dict[int, Write]:
    """The layers to ablate, and which of their two writes does more for the sink token.

    Raises:
        InputError: when emergence layers are asked for and there are none.
    """
    layers = profile.emergence_layers() if layers == "emergence" else sorted(layers)
    if not layers:
        peak = float(profile["norm_ratio"].mean("prompt").max())
        raise InputError(
            f"no layer writes {MIN_SHARE:.0%} of a massive first token (its norm ratio peaks at "
            f"{peak:.1f}): there is nothing to ablate; name layers=[...] to do it all the same"
        )
    mlp, attention = (profile[f"{kind}_write_along"].mean("prompt") for kind in ("mlp", "attention"))
    return {layer: "mlp" if float(mlp[layer]) >= float(attention[layer]) else "attention" for layer in layers}


def massive_dimensions(baseline: Profile, layers: Sequence[int]) -> list[int]:
    """The dimensions that are largest in a tenth of the prompts, at the sink token behind these layers."""
    depths = [layer + 1 for layer in layers]
    dimension = baseline["top_activation_dimension"].sel(depth=depths).values
    position = baseline["top_activation_position"].sel(depth=depths).values
    at_sink = dimension[position == baseline.data.attrs["sink_position"]]
    largest, counts = np.unique(at_sink if at_sink.size else dimension, return_counts=True)
    return [int(d) for d in largest[counts >= _MIN_DIMENSION_SHARE * counts.sum()]]


def build_arms(
    model: Model,
    baseline: Profile,
    writes: Mapping[int, Write],
    names: Sequence[str] = ARMS,
    max_ratio: float = 1.0,
    rest_norm: Sequence[float] | None = None,
    seed: int = 0,
    refuse: bool = False,
) -> list[Arm]:
    """The arms of a study, treatments first. What a model cannot have is refused, or left out.

    Raises:
        InputError: with ``refuse``, for an arm that cannot be had.
    """
    sink = int(baseline.data.attrs["sink_position"])
    n_layers = baseline.data.sizes["layer"]
    layers, behind = list(writes), f"behind {_listed('layer', writes)}"
    rng = np.random.default_rng(seed)
    # Drawn whether they are named or not: the same seed gives the same controls.
    tokens = _other_tokens(baseline.data.n_tokens.values, sink, rng)
    others = _other_layers(layers, baseline, rng)
    later = range(min(layers) + 1, n_layers)
    if refuse and "block" in names and not later:
        raise InputError(f"arm 'block': there is no layer after {min(layers)}; leave it out, or name others")
    if refuse and "other layer" in names and not others:
        raise InputError("arm 'other layer': no layer is left for the control; leave it out, or name fewer")
    # Every layer's write by itself, and all together where there are several.
    sets: list[Mapping[int, Write]] = [{layer: write} for layer, write in writes.items()]
    arms = {
        "write": [
            Arm(
                f"write, {_listed('layer', removed)}",
                f"the {_writes(removed)} removed at the sink token",
                partial(remove_writes, removed, sink),
                ends_norm=len(removed) == len(writes),
            )
            for removed in (sets if len(writes) == 1 else [*sets, writes])
        ]
    }
    what = f"the sink token's norm {behind} scaled down to {max_ratio:g} times the mean of the others"
    clamp = partial(clamp_norm, layers, sink, max_ratio=max_ratio, rest_norm=rest_norm)
    arms["clamp"] = [Arm("norm clamp", what, clamp, ends_norm=True)]
    dimensions = massive_dimensions(baseline, layers)
    what = f"{_listed('dimension', dimensions)} of the sink token's state {behind} set to 0"
    zero = partial(zero_dimensions, layers, dimensions, sink)
    arms["dimensions"] = [Arm("zeroed dimensions", what, zero, ends_norm=True)]
    if later and "pattern_edits" not in model_facts(model).failed_checks:
        what = f"no later token attends to the sink token in layers {later[0]}-{later[-1]}"
        arms["block"] = [Arm("blocked sink", what, partial(block_attention_to, sink, later))]
    what = f"the same {_writes(writes)} removed at a random other token of each prompt"
    remove = partial(remove_writes, writes, [[token] for token in tokens])
    arms["other token"] = [Arm("control: other token", what, remove)]
    if others:
        what = f"the same kind of write of {_listed('layer', others)} removed at the sink token"
        same_kind = dict(zip(others, writes.values(), strict=False))
        arms["other layer"] = [Arm("control: other layer", what, partial(remove_writes, same_kind, sink))]
    return [arm for name, group in arms.items() if name in names for arm in group]


def remove_writes(
    writes: Mapping[int, Write], positions: int | Sequence[Sequence[int]], dose: float
) -> list[Hook]:
    """Hooks that take ``dose`` of each layer's named write at positions."""
    hooks: list[Hook] = []
    for kind, ablate in (("mlp", ablate_mlp_write), ("attention", ablate_attention_write)):
        if layers := [layer for layer, write in writes.items() if write == kind]:
            hooks += ablate(layers, positions, dose)
    return hooks


def _other_tokens(lengths: np.ndarray, sink: int, rng: np.random.Generator) -> list[int]:
    """A position of each prompt that is not the sink's."""
    return [at + (at >= sink) for at in (int(rng.integers(length - 1)) for length in lengths)]


def _other_layers(layers: Sequence[int], baseline: Profile, rng: np.random.Generator) -> list[int]:
    """As many others, or as many as there are, of those that write before the last compressed depth.

    No outcome could show what a later one writes.
    """
    compress = baseline.phases(confidence=None).compress
    end = compress[1] if compress else baseline.data.sizes["layer"]
    rest = [layer for layer in range(end) if layer not in layers]
    return sorted(rest[i] for i in rng.permutation(len(rest))[: len(layers)])


def _writes(writes: Mapping[int, Write]) -> str:
    layers = {kind: [x for x, write in writes.items() if write == kind] for kind in ("mlp", "attention")}
    words = {"mlp": "MLP", "attention": "attention"}
    return " and ".join(f"{words[kind]} write of {_listed('layer', xs)}" for kind, xs in layers.items() if xs)


def _listed(noun: str, numbers: Collection[int]) -> str:
    return f"{noun}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
