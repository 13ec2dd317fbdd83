"""One arm of a sweep: the untouched model, or one intervention whose layers the baseline may choose."""

import inspect
from dataclasses import fields
from typing import Any, Literal

import numpy as np

from mcr_lens import hooks
from mcr_lens.errors import InputError, one_line
from mcr_lens.models import Hook
from mcr_lens.results import Profile
from mcr_lens.sweeps.fields import Several, Text, table

__all__ = ["SweepArm"]

# The intervention says itself what cannot be; what a baseline will choose is stood in for.
_STAND_IN: dict[str, Any] = {"layers": 0, "dimensions": 0, "rest_norm": None}
_Numbers = Several[int] | int


@table
class SweepArm:
    """What is done to the model in a cell.

    Arguments that are left out are those of the intervention itself; see its own documentation.

    Attributes:
        intervention: ``"baseline"`` (nothing), or the name of a function of ``mcr_lens.hooks``.
        layers: blocks, counted from 0; ``"emergence"``: those that the baseline of the same model and
            prompts shows to make the sink token massive; ``"after emergence"``: all behind the first of them.
        positions: of the prompt; the sweep's sink position when left out.
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

    intervention: Literal[
        "baseline",
        "ablate_mlp_write",
        "ablate_attention_write",
        "clamp_norm",
        "zero_dimensions",
        "block_attention_to",
    ] = "baseline"
    layers: _Numbers | Literal["emergence", "after emergence"] | None = None
    positions: _Numbers | None = None
    dose: float | None = None
    max_ratio: float | None = None
    rest_norm: Literal["baseline"] | None = None
    dimensions: _Numbers | Literal["massive"] | None = None
    heads: _Numbers | None = None
    renormalise: bool | None = None
    name: Text | None = None

    def __post_init__(self) -> None:
        arguments = self.arguments()
        if self.is_baseline:
            if arguments or self.name is not None:
                raise InputError("baseline: it takes no arguments and no name; leave them out")
            return
        if self.dimensions == "massive" and self.positions is not None:
            raise InputError("zero_dimensions: dimensions = 'massive' are the sink token's: no positions")
        stand_in = {name: _STAND_IN[name] for name, value in arguments.items() if isinstance(value, str)}
        function = getattr(hooks, self.intervention)
        try:
            function(**{"positions": 0} | arguments | stand_in)
        except TypeError as error:
            takes = [name for name in inspect.signature(function).parameters if name != "model"]
            raise InputError(f"{one_line(error)}; it takes {', '.join(takes)}") from error

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
        words = [f"{name}={_short(value)}" for name, value in self.arguments().items()]
        return self.name or " ".join([self.intervention, *words])

    def arguments(self) -> dict[str, Any]:
        """What was not left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)[1:-1]}
        return {name: value for name, value in values.items() if value is not None}

    def hooks(self, baseline: Profile | None, sink_position: int) -> list[Hook]:
        """The intervention, with what the baseline chooses.

        Raises:
            InputError: when the baseline is needed and missing, or has no emergence layers, or no layer
                behind them.
        """
        # Experiments use sweeps themselves.
        from mcr_lens.experiments.ablation.arms import massive_dimensions

        if self.is_baseline:
            return []
        arguments: dict[str, Any] = {"positions": sink_position} | self.arguments()
        if self.needs_baseline and baseline is None:
            raise InputError(f"arm {self.label!r} needs its baseline, which has failed: see its own record")
        if baseline is not None:
            if isinstance(self.layers, str):
                arguments["layers"] = baseline.emergence_layers()
                if not arguments["layers"]:
                    headline = baseline.phases(confidence=None).headline
                    raise InputError(
                        f"layers = {self.layers!r}: no layer makes the sink massive ({headline})"
                    )
            if self.layers == "after emergence":
                first, n_layers = min(arguments["layers"]), baseline.data.sizes["layer"]
                arguments["layers"] = list(range(first + 1, n_layers))
                if first + 1 == n_layers:
                    raise InputError(f"layers = {self.layers!r}: there is none after layer {first}, the last")
            if self.rest_norm is not None:
                arguments["rest_norm"] = baseline["rest_norm"].mean("prompt").values.tolist()
            if self.dimensions == "massive":
                layers = np.atleast_1d(arguments["layers"]).tolist()
                arguments["dimensions"] = massive_dimensions(baseline, layers)
        return getattr(hooks, self.intervention)(**arguments)


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "-")
