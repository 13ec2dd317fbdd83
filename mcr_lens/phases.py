"""Mix, Compress, Refine: where the sink token becomes massive, where it is removed, what lies between.

Everything here reads a profile's dataset, averaged over prompts, against thresholds that are arguments
and are stored in the answer. "No compression phase" is one of the answers.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from mcr_lens.errors import InputError

__all__ = [
    "Phases",
    "Stage",
    "dissipation_layers",
    "dissipation_stages",
    "emergence_layers",
    "emergence_stages",
    "find_phases",
]

MIN_NORM_RATIO = 10.0
MIN_ENTROPY_DROP = 0.1
MIN_SHARE = 0.2


@dataclass(frozen=True)
class Stage:
    """A layer that writes or removes a good part of the sink token's norm.

    Attributes:
        write: which of the layer's two writes does more of it.
        share: change of the sink token's norm over its peak; negative where it is removed.
    """

    layer: int
    write: Literal["mlp", "attention"]
    share: float


@dataclass(frozen=True)
class Phases:
    """Depth intervals, both ends included; ``None`` for a phase the model does not have.

    Attributes:
        peak_depth: depth of the largest mean norm ratio.
        peak_norm_ratio: that ratio.
        entropy_drop: largest fall of normalized entropy below its highest value before.
    """

    mix: tuple[int, int] | None
    compress: tuple[int, int] | None
    refine: tuple[int, int] | None
    peak_depth: int
    peak_norm_ratio: float
    entropy_drop: float
    min_norm_ratio: float
    min_entropy_drop: float

    def __str__(self) -> str:
        if self.compress is None:
            return (
                f"no compression phase: the norm ratio peaks at {self.peak_norm_ratio:.1f} (depth "
                f"{self.peak_depth}) and normalized entropy falls by {self.entropy_drop:.2f}; both must "
                f"reach {self.min_norm_ratio:g} and {self.min_entropy_drop:g} at one depth"
            )
        named = {"Mix": self.mix, "Compress": self.compress, "Refine": self.refine}
        return ", ".join(
            f"{name} {_depths(span)}" if span else f"no {name} phase" for name, span in named.items()
        )


def find_phases(
    data: xr.Dataset,
    min_norm_ratio: float = MIN_NORM_RATIO,
    min_entropy_drop: float = MIN_ENTROPY_DROP,
) -> Phases:
    """The three phases by plain thresholds on the means over prompts.

    The fall of normalized entropy at a depth is taken from the highest value at or before it. There is
    a compression phase when the fall reaches ``min_entropy_drop`` at a depth whose norm ratio is at
    least ``min_norm_ratio``. It is the run of depths around the deepest such fall that keep at least
    half of it: refinement begins where half of the fall has been regained.
    """
    ratio = _mean_over_prompts(data, "norm_ratio")
    entropy = _mean_over_prompts(data, "normalized_entropy")
    peak = _peak(ratio)
    fall = np.fmax.accumulate(entropy) - entropy
    massive = np.where(ratio >= min_norm_ratio, fall, np.nan)
    bottom = _peak(massive)
    last = len(ratio) - 1
    mix = refine = compress = None
    if massive[bottom] >= min_entropy_drop:
        start, end = compress = _run_around(fall >= fall[bottom] / 2, bottom)
        mix = (0, start - 1) if start > 0 else None
        refine = (end + 1, last) if end < last else None
    return Phases(
        mix=mix,
        compress=compress,
        refine=refine,
        peak_depth=peak,
        peak_norm_ratio=float(ratio[peak]),
        entropy_drop=_largest(fall),
        min_norm_ratio=min_norm_ratio,
        min_entropy_drop=min_entropy_drop,
    )


def emergence_stages(
    data: xr.Dataset, min_share: float = MIN_SHARE, min_norm_ratio: float = MIN_NORM_RATIO
) -> list[Stage]:
    """Layers that write at least ``min_share`` of the sink token's peak norm, in order.

    Read from the writes along the state they leave behind, up to the peak. Empty when the norm ratio
    never reaches ``min_norm_ratio``: then there is nothing massive to emerge.
    """
    if not _becomes_massive(data, min_norm_ratio):
        return []
    norm = _mean_over_prompts(data, "sink_norm")
    peak = _peak(norm)
    along = {
        "mlp": _mean_over_prompts(data, "mlp_write_along") / norm[peak],
        "attention": _mean_over_prompts(data, "attention_write_along") / norm[peak],
    }
    share = along["mlp"] + along["attention"]
    return [
        Stage(layer, _larger(along, layer), float(share[layer]))
        for layer in range(peak)
        if share[layer] >= min_share
    ]


def dissipation_stages(
    data: xr.Dataset, min_share: float = MIN_SHARE, min_norm_ratio: float = MIN_NORM_RATIO
) -> list[Stage]:
    """Layers after the peak that take at least ``min_share`` of the sink token's peak norm away.

    The share is the fall of the norm itself: a write that removes nearly all of a state has no fixed
    direction along the little that it leaves behind. The larger write is named.
    """
    if not _becomes_massive(data, min_norm_ratio):
        return []
    norm = _mean_over_prompts(data, "sink_norm")
    peak = _peak(norm)
    size = {
        "mlp": _mean_over_prompts(data, "mlp_write_norm"),
        "attention": _mean_over_prompts(data, "attention_write_norm"),
    }
    change = np.diff(norm) / norm[peak]
    return [
        Stage(layer, _larger(size, layer), float(change[layer]))
        for layer in range(peak, len(change))
        if change[layer] <= -min_share
    ]


def emergence_layers(
    data: xr.Dataset, min_share: float = MIN_SHARE, min_norm_ratio: float = MIN_NORM_RATIO
) -> list[int]:
    """The layers of ``emergence_stages``."""
    return [stage.layer for stage in emergence_stages(data, min_share, min_norm_ratio)]


def dissipation_layers(
    data: xr.Dataset, min_share: float = MIN_SHARE, min_norm_ratio: float = MIN_NORM_RATIO
) -> list[int]:
    """The layers of ``dissipation_stages``."""
    return [stage.layer for stage in dissipation_stages(data, min_share, min_norm_ratio)]


def _becomes_massive(data: xr.Dataset, min_norm_ratio: float) -> bool:
    """Whether the norm ratio reaches the threshold at any depth, of a profile that has the writes."""
    if "mlp_write_norm" not in data:
        raise InputError("this profile has no writes (its self-check failed): no layers to name")
    return _largest(_mean_over_prompts(data, "norm_ratio")) >= min_norm_ratio


def _mean_over_prompts(data: xr.Dataset, name: str) -> np.ndarray:
    """Mean over prompts along depth or layer, NaN skipped."""
    extra = [dim for dim in data[name].dims if dim not in ("prompt", "depth", "layer")]
    if extra:
        raise InputError(f"phases are those of one profile: select one {extra[0]} first")
    return data[name].mean("prompt", skipna=True).values


def _largest(values: np.ndarray) -> float:
    """Largest value, NaN skipped; NaN of nothing else."""
    return float(np.fmax.reduce(values))


def _peak(values: np.ndarray) -> int:
    """Where the largest value stands, NaN skipped; 0 where all are NaN."""
    return int(np.where(np.isnan(values), -np.inf, values).argmax())


def _depths(span: tuple[int, int]) -> str:
    first, last = span
    return f"depth {first}" if first == last else f"depths {first}-{last}"


def _larger(parts: dict[str, np.ndarray], layer: int) -> Literal["mlp", "attention"]:
    return "mlp" if parts["mlp"][layer] >= parts["attention"][layer] else "attention"


def _run_around(flags: np.ndarray, inside: int) -> tuple[int, int]:
    """First and last index of the run of true flags that holds ``inside``."""
    start = end = inside
    while start > 0 and flags[start - 1]:
        start -= 1
    while end + 1 < len(flags) and flags[end + 1]:
        end += 1
    return start, end
