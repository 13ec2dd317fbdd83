"""The conditions of an ablation study: treatments that end a massive activation, and matched controls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

__all__ = ["ARMS", "Arm", "Write", "build_arms", "check_arms", "writes_of"]

Write = Literal["mlp", "attention"]
ARMS = ("write", "clamp", "dimensions", "block", "other token", "other layer")
# A dimension counts as massive when it is the largest in at least this share of the prompts.
_MIN_DIMENSION_SHARE = 0.1


@dataclass(frozen=True)
class Arm:
    """One condition.

    Attributes:
        name: as it stands in tables and figures.
        kind: ``"treatment"`` or ``"control"``.
        what: a sentence on what is done at dose 1.
        hooks: the intervention at a dose.
        ends_norm: whether it is meant to end the massive norm, and not only what may follow from it.
    """

    name: str
    kind: Literal["treatment", "control"]
    what: str
    hooks: Callable[[float], list[Hook]]
    ends_norm: bool = False


def check_arms(wanted: Sequence[str]) -> None:
    """Raise ``InputError`` for an arm that does not exist, or none at all."""
    unknown = [name for name in wanted if name not in ARMS]
    if unknown or not wanted:
        raise InputError(f"arms {list(unknown or wanted)}: use some of {', '.join(ARMS)}")


def writes_of(profile: Profile, layers: Literal["emergence"] | Sequence[int]) -> dict[int, Write]:
    """The layers to ablate, and which of their two writes does more for the sink token.

    Raises:
        InputError: when emergence layers are asked for and there are none.
    """
    if layers == "emergence":
        chosen = profile.emergence_layers()
        if not chosen:
            peak = float(profile["norm_ratio"].mean("prompt").max())
            raise InputError(
                f"no layer writes {MIN_SHARE:.0%} of a massive first token (its norm ratio peaks at "
                f"{peak:.1f}): there is nothing to ablate; name layers=[...] to do it all the same"
            )
    else:
        chosen = sorted({int(layer) for layer in layers})
    along = {kind: profile[f"{kind}_write_along"].mean("prompt") for kind in ("mlp", "attention")}
    return {
        layer: "mlp" if float(along["mlp"][layer]) >= float(along["attention"][layer]) else "attention"
        for layer in chosen
    }


def build_arms(
    model: Model,
    baseline: Profile,
    writes: Mapping[int, Write],
    wanted: Sequence[str] = ARMS,
    max_ratio: float = 1.0,
    rest_norm: Sequence[float] | None = None,
    seed: int = 0,
    refuse: bool = False,
) -> list[Arm]:
    """The arms of a study, treatments first. What a model cannot have is refused, or left out.

    Raises:
        InputError: for an arm that does not exist, or, with ``refuse``, cannot be had.
    """
    check_arms(wanted)
    sink = int(baseline.data.attrs["sink_position"])
    n_layers = baseline.data.sizes["layer"]
    layers = list(writes)
    rng = np.random.default_rng(seed)
    # Drawn whether wanted or not: the same seed gives the same controls.
    tokens = _other_tokens(baseline.data.n_tokens.values, sink, rng)
    others = _other_layers(layers, _layers_in_reach(baseline), rng)
    arms: list[Arm] = []
    if "write" in wanted:
        arms += _write_arms(writes, sink)
    if "clamp" in wanted:
        arms.append(_clamp_arm(layers, sink, max_ratio, rest_norm))
    if "dimensions" in wanted:
        arms.append(_dimensions_arm(baseline, layers, sink))
    later = range(min(layers) + 1, n_layers)
    if refuse and "block" in wanted and not later:
        raise InputError(f"arm 'block': there is no layer after {min(layers)}; leave it out, or name others")
    if refuse and "other layer" in wanted and not others:
        raise InputError("arm 'other layer': no layer is left for the control; leave it out, or name fewer")
    if "block" in wanted and later and "pattern_edits" not in model_facts(model).failed_checks:
        arms.append(_block_arm(later, sink))
    if "other token" in wanted:
        arms.append(
            Arm(
                "control: other token",
                "control",
                f"the same {_named(writes)} removed at a random other token of each prompt",
                lambda dose: remove_writes(writes, tokens, dose),
            )
        )
    if "other layer" in wanted and others:
        arms.append(
            Arm(
                "control: other layer",
                "control",
                f"the same kind of write of layer{_plural(others)} {_listed(others)} removed at the sink "
                "token",
                lambda dose: remove_writes(dict(zip(others, writes.values(), strict=False)), sink, dose),
            )
        )
    return arms


def remove_writes(writes: Mapping[int, Write], position: int | Sequence[int], dose: float) -> list[Hook]:
    """Hooks that take ``dose`` of each layer's named write at a position."""
    by_kind = {
        kind: [layer for layer, write in writes.items() if write == kind] for kind in ("mlp", "attention")
    }
    hooks: list[Hook] = []
    if by_kind["mlp"]:
        hooks += ablate_mlp_write(by_kind["mlp"], position, dose)
    if by_kind["attention"]:
        hooks += ablate_attention_write(by_kind["attention"], position, dose)
    return hooks


def _write_arms(writes: Mapping[int, Write], sink: int) -> list[Arm]:
    """Every layer by itself, and all together where there are several."""
    sets: list[dict[int, Write]] = [{layer: write} for layer, write in writes.items()]
    if len(writes) > 1:
        sets.append(dict(writes))
    return [
        Arm(
            f"write, layer{_plural(chosen)} {_listed(chosen)}",
            "treatment",
            f"the {_named(chosen)} removed at the sink token",
            lambda dose, chosen=chosen: remove_writes(chosen, sink, dose),
            ends_norm=len(chosen) == len(writes),
        )
        for chosen in sets
    ]


def _clamp_arm(layers: Sequence[int], sink: int, max_ratio: float, rest_norm: Sequence[float] | None) -> Arm:
    return Arm(
        "norm clamp",
        "treatment",
        f"the sink token's norm behind layer{_plural(layers)} {_listed(layers)} scaled down to "
        f"{max_ratio:g} times the mean of the others",
        lambda dose: clamp_norm(layers, sink, max_ratio=max_ratio, rest_norm=rest_norm, dose=dose),
        ends_norm=True,
    )


def _dimensions_arm(baseline: Profile, layers: Sequence[int], sink: int) -> Arm:
    depths = [layer + 1 for layer in layers]
    dimension = baseline["top_activation_dimension"].sel(depth=depths)
    at_sink = baseline["top_activation_position"].sel(depth=depths) == sink
    found, counts = np.unique(dimension.values[at_sink.values], return_counts=True)
    if not len(found):
        found, counts = np.unique(dimension.values, return_counts=True)
    massive = [int(d) for d in found[counts >= _MIN_DIMENSION_SHARE * counts.sum()]]
    return Arm(
        "zeroed dimensions",
        "treatment",
        f"dimension{_plural(massive)} {_listed(massive)} of the sink token's state behind "
        f"layer{_plural(layers)} {_listed(layers)} set to 0",
        lambda dose: zero_dimensions(layers, massive, sink, dose),
        ends_norm=True,
    )


def _block_arm(layers: Sequence[int], sink: int) -> Arm:
    return Arm(
        "blocked sink",
        "treatment",
        f"no later token attends to the sink token in layers {layers[0]}-{layers[-1]}",
        lambda dose: block_attention_to(sink, layers, dose=dose),
    )


def _other_tokens(lengths: np.ndarray, sink: int, rng: np.random.Generator) -> list[int]:
    """A position of each prompt that is not the sink's."""
    drawn = [int(rng.integers(length - 1)) for length in lengths]
    return [position + (position >= sink) for position in drawn]


def _layers_in_reach(baseline: Profile) -> int:
    """Layers that write before the last compressed depth: what a later one writes no outcome could show."""
    compress = baseline.phases(confidence=None).compress
    return compress[1] if compress else baseline.data.sizes["layer"]


def _other_layers(layers: Sequence[int], reach: int, rng: np.random.Generator) -> list[int]:
    """As many of the first ``reach`` layers that are not among these, or as many as there are."""
    rest = [layer for layer in range(reach) if layer not in layers]
    chosen = rng.permutation(len(rest))[: len(layers)]
    return sorted(rest[i] for i in chosen)


def _named(writes: Mapping[int, Write]) -> str:
    parts = []
    for kind, word in (("mlp", "MLP"), ("attention", "attention")):
        layers = [layer for layer, write in writes.items() if write == kind]
        if layers:
            parts.append(f"{word} write of layer{_plural(layers)} {_listed(layers)}")
    return " and ".join(parts)


def _listed(numbers: Sequence[int] | Mapping[int, object]) -> str:
    return ", ".join(str(number) for number in numbers)


def _plural(things: Sequence[object] | Mapping[int, object]) -> str:
    return "s" if len(things) > 1 else ""
