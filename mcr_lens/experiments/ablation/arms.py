"""The conditions of an ablation study: treatments of a massive activation, and controls of equal norm."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.experiments.ablation.controls import (
    N_DRAWS,
    Write,
    random_directions,
    subtract_elsewhere,
    subtract_random,
    turn,
)
from mcr_lens.hooks import (
    ablate_attention_write,
    ablate_mlp_write,
    block_attention_to,
    clamp_norm,
    zero_dimensions,
)
from mcr_lens.models import Hook, Model, model_facts
from mcr_lens.results import Profile

__all__ = ["ARMS", "OTHER_TOKEN", "RANDOM_DIRECTION", "Arm", "build_arms", "massive_dimensions", "writes_of"]

ARMS = ("write", "clamp", "dimensions", "direction", "block", "random direction", "other token")
RANDOM_DIRECTION, OTHER_TOKEN = "control: random direction", "control: other token"
# A dimension counts as massive when it is the largest in at least this share of the prompts.
_MIN_DIMENSION_SHARE = 0.1


@dataclass(frozen=True)
class Arm:
    """One condition.

    Attributes:
        name: as it stands in tables and figures; a control's begins with "control".
        what: a sentence on what is done at dose 1.
        hooks: the intervention, with ``dose=``.
        draws: the same with other random vectors, all of them at the largest dose only, in place of doses.
    """

    name: str
    what: str
    hooks: Callable[..., list[Hook]]
    draws: list[Callable[..., list[Hook]]] = field(default_factory=list)

    @property
    def kind(self) -> Literal["treatment", "control"]:
        """Whether it is one or the other."""
        return "control" if self.name.startswith("control") else "treatment"


def writes_of(profile: Profile, layers: Literal["emergence"] | Sequence[int]) -> dict[int, Write]:
    """The layers to ablate, and which of their two writes does more for the sink token.

    Where emergence layers are asked for and there are none, the layer whose writes are the largest share of
    the state that it leaves at the sink token, ``largest_share``.
    """
    if layers == "emergence":
        layers = profile.emergence_layers() or [largest_share(profile)[0]]
    mlp, attention = (profile[f"{kind}_write_along"].mean("prompt") for kind in ("mlp", "attention"))
    return {
        layer: "mlp" if float(mlp[layer]) >= float(attention[layer]) else "attention"
        for layer in sorted(layers)
    }


def largest_share(profile: Profile) -> tuple[int, float]:
    """The layer whose writes are the largest share of the sink token's norm behind it, and that share."""
    written = profile["mlp_write_along"].mean("prompt") + profile["attention_write_along"].mean("prompt")
    share = written.values / profile["sink_norm"].mean("prompt").values[1:]
    layer = int(np.where(np.isnan(share), -np.inf, share).argmax())
    return layer, float(share[layer])


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
    vectors: Mapping[int, Float[Tensor, "prompt d_model"]],
    names: Sequence[str] = ARMS,
    max_ratio: float = 1.0,
    rest_norm: Sequence[float] | None = None,
    seed: int = 0,
    refuse: bool = False,
) -> list[Arm]:
    """The arms of a study, treatments first. What a model cannot have is refused, or left out.

    Args:
        vectors: what each of the layers writes at the sink token of each prompt, in the baseline.

    Raises:
        InputError: with ``refuse``, for an arm that cannot be had.
    """
    sink = int(baseline.data.attrs["sink_position"])
    n_layers = baseline.data.sizes["layer"]
    layers, behind = list(writes), f"behind {_listed('layer', writes)}"
    rng = np.random.default_rng(seed)
    # Drawn whether they are named or not: the same seed gives the same controls.
    tokens = _other_tokens(baseline.data.n_tokens.values, sink, rng)
    later = range(min(layers) + 1, n_layers)
    if refuse and "block" in names and not later:
        raise InputError(f"arm 'block': there is no layer after {min(layers)}; leave it out, or name others")
    # Every layer's write by itself, and all together where there are several.
    sets: list[Mapping[int, Write]] = [{layer: write} for layer, write in writes.items()]
    arms = {
        "write": [
            Arm(
                f"write, {_listed('layer', removed)}",
                f"the {_writes(removed)} removed at the sink token",
                partial(remove_writes, removed, sink),
            )
            for removed in (sets if len(writes) == 1 else [*sets, writes])
        ]
    }
    what = f"the sink token's norm {behind} scaled down to {max_ratio:g} times the mean of the others"
    clamp = partial(clamp_norm, layers, sink, max_ratio=max_ratio, rest_norm=rest_norm)
    arms["clamp"] = [Arm("norm clamp", what, clamp)]
    dimensions = massive_dimensions(baseline, layers)
    what = f"{_listed('dimension', dimensions)} of the sink token's state {behind} set to 0"
    zero = partial(zero_dimensions, layers, dimensions, sink)
    arms["dimensions"] = [Arm("zeroed dimensions", what, zero)]
    width = next(iter(vectors.values())).shape[-1]
    directions, *draws = random_directions(N_DRAWS + 1, layers, width, seed)
    what = f"the direction of the sink token's state {behind} replaced by a random one, its norm kept"
    arms["direction"] = [Arm("random direction, norm kept", what, partial(turn, layers, sink, directions))]
    if later and "pattern_edits" not in model_facts(model).failed_checks:
        what = f"no later token attends to the sink token in layers {later[0]}-{later[-1]}"
        arms["block"] = [Arm("blocked sink", what, partial(block_attention_to, sink, later))]
    what = (
        f"a random vector as long as the {_writes(writes)} subtracted at the sink token; mean of {N_DRAWS} "
        f"draws (seed {seed}), at the largest dose only"
    )
    drawn = [partial(subtract_random, writes, sink, draw) for draw in draws]
    arms["random direction"] = [Arm(RANDOM_DIRECTION, what, drawn[0], drawn)]
    what = f"the sink token's {_writes(writes)} subtracted at a random other token of each prompt"
    elsewhere = partial(subtract_elsewhere, writes, [[token] for token in tokens], vectors)
    arms["other token"] = [Arm(OTHER_TOKEN, what, elsewhere)]
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


def _writes(writes: Mapping[int, Write]) -> str:
    layers = {kind: [x for x, write in writes.items() if write == kind] for kind in ("mlp", "attention")}
    words = {"mlp": "MLP", "attention": "attention"}
    return " and ".join(f"{words[kind]} write of {_listed('layer', xs)}" for kind, xs in layers.items() if xs)


def _listed(noun: str, numbers: Collection[int]) -> str:
    return f"{noun}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
