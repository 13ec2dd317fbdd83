"""One arm of a sweep: the untouched model, or one intervention whose layers the baseline may choose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from mcr_lens.errors import InputError
from mcr_lens.experiments.ablation.arms import build_arms, writes_of
from mcr_lens.hooks import (
    ablate_attention_write,
    ablate_mlp_write,
    block_attention_to,
    clamp_norm,
    zero_dimensions,
)
from mcr_lens.models import Hook
from mcr_lens.results import Profile
from mcr_lens.sweeps.fields import check_fields

__all__ = ["SweepArm"]

_INTERVENTIONS: dict[str, Callable[..., list[Hook]]] = {
    "ablate_mlp_write": ablate_mlp_write,
    "ablate_attention_write": ablate_attention_write,
    "clamp_norm": clamp_norm,
    "zero_dimensions": zero_dimensions,
    "block_attention_to": block_attention_to,
}
_COMMON = ("layers", "position", "dose")
_TAKES: dict[str, tuple[str, ...]] = {
    "baseline": (),
    "ablate_mlp_write": _COMMON,
    "ablate_attention_write": _COMMON,
    "clamp_norm": (*_COMMON, "max_ratio", "rest_norm"),
    "zero_dimensions": (*_COMMON, "dimensions"),
    "block_attention_to": (*_COMMON, "heads", "renormalise"),
}


@dataclass(frozen=True)
class SweepArm:
    """What is done to the model in a cell.

    Arguments that are left out are those of the intervention itself; see its own documentation.

    Attributes:
        intervention: ``"baseline"`` (nothing), or the name of a function of ``mcr_lens.hooks``.
        layers: blocks, counted from 0; ``"emergence"``: those that the baseline of the same model and
            prompts shows to make the sink token massive; ``"after emergence"``: all behind the first of them.
        position: of the prompt; the sweep's sink position when left out.
        dose: how much is taken, 0 (nothing) to 1 (all).
        max_ratio: of ``clamp_norm``.
        rest_norm: of ``clamp_norm``: ``"baseline"`` compares with the baseline's mean norms, as prompts in
            chunks need it.
        dimensions: of ``zero_dimensions``; ``"massive"``: those that are the baseline's largest at the sink
            token behind the layers.
        heads: of ``block_attention_to``.
        renormalise: of ``block_attention_to``.
        name: what the arm is called in tables and files; else it is made of the rest. Not for the baseline,
            which other arms look for.

    Raises:
        InputError: for an intervention that does not exist, arguments that it does not take or that
            cannot be.

    Example:
        >>> SweepArm("ablate_mlp_write", layers="emergence", dose=0.5).label
        'ablate_mlp_write layers=emergence dose=0.5'
    """

    intervention: str = "baseline"
    layers: Sequence[int] | int | Literal["emergence", "after emergence"] | None = None
    position: int | None = None
    dose: float | None = None
    max_ratio: float | None = None
    rest_norm: Literal["baseline"] | None = None
    dimensions: Sequence[int] | int | Literal["massive"] | None = None
    heads: Sequence[int] | int | None = None
    renormalise: bool | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "arm")
        if self.intervention not in _TAKES:
            raise InputError(f"arm {self.intervention!r}: use one of {', '.join(_TAKES)}")
        takes = _TAKES[self.intervention]
        foreign = [name for name in self._given() if name not in takes]
        if foreign:
            raise InputError(
                f"arm {self.intervention}: {', '.join(foreign)} is not for it; "
                f"it takes {', '.join(takes) or 'no arguments'}"
            )
        if self.is_baseline and self.name is not None:
            raise InputError(f"arm baseline: name = {self.name!r}: it is called baseline; leave the name out")
        for needed in ("layers", "dimensions"):
            if needed in takes and getattr(self, needed) is None:
                raise InputError(f"arm {self.intervention}: {needed} is missing")
        if self.dimensions == "massive" and self.position is not None:
            raise InputError("arm zero_dimensions: dimensions = 'massive' are the sink token's: no position")
        if takes:
            # The intervention says itself what cannot be; what a baseline will choose is stood in for.
            stand_in = {name: 0 for name in ("layers", "dimensions") if isinstance(getattr(self, name), str)}
            _INTERVENTIONS[self.intervention](**self._arguments(0) | stand_in)

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is done."""
        return self.intervention == "baseline"

    @property
    def needs_baseline(self) -> bool:
        """Whether something is read from the baseline of the same model and prompts."""
        return any(isinstance(each, str) for each in (self.layers, self.dimensions, self.rest_norm))

    @property
    def label(self) -> str:
        """What the arm is called."""
        if self.name is not None:
            return self.name
        words = [f"{name}={_short(value)}" for name, value in self._given().items()]
        return " ".join([self.intervention, *words])

    def hooks(self, baseline: Profile | None, sink_position: int) -> list[Hook]:
        """The intervention, with what the baseline chooses.

        Raises:
            InputError: when the baseline has no emergence layers, or none behind them.
        """
        if self.is_baseline:
            return []
        arguments = self._arguments(sink_position)
        if baseline is None or not self.needs_baseline:
            return _INTERVENTIONS[self.intervention](**arguments)
        arguments["layers"] = layers = _chosen_layers(self.layers, baseline)
        if self.rest_norm is not None:
            arguments["rest_norm"] = baseline["rest_norm"].mean("prompt").values.tolist()
        if self.dimensions == "massive":
            # As the ablation study chooses them; which write made the layer does not matter for it.
            writes = dict.fromkeys(layers, "mlp")
            arm = build_arms(None, baseline, writes, ["dimensions"])[0]  # type: ignore[arg-type]
            return arm.hooks(1.0 if self.dose is None else self.dose)
        return _INTERVENTIONS[self.intervention](**arguments)

    def _given(self) -> dict[str, Any]:
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value
            for name, value in every.items()
            if value is not None and name not in ("intervention", "name")
        }

    def _arguments(self, sink_position: int) -> dict[str, Any]:
        given = self._given()
        given.pop("rest_norm", None)
        return {"position": sink_position} | given


def _chosen_layers(layers: Any, baseline: Profile) -> list[int]:
    if not isinstance(layers, str):
        return [layers] if isinstance(layers, int) else list(layers)
    emergence = list(writes_of(baseline, "emergence"))
    if layers == "emergence":
        return emergence
    behind = list(range(min(emergence) + 1, baseline.data.sizes["layer"]))
    if not behind:
        raise InputError(f"layers = 'after emergence': there is none after layer {min(emergence)}, the last")
    return behind


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "-")
