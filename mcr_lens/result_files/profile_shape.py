"""What a dataset must hold to be a profile: whatever a file says, showing it must not stumble."""

from collections.abc import Iterable, Set

import xarray as xr

from mcr_lens.errors import InputError

__all__ = ["STACKED", "SUMMARY_OF_DEPTH", "check_profile"]

# Dimensions along which profiles are put together.
STACKED = ("model", "step", "arm")

SUMMARY_OF_DEPTH = (
    "norm_ratio",
    "normalized_entropy",
    "normalized_entropy_without_sink",
    "anisotropy",
    "anisotropy_bound",
)
_SUMMARY_OF_LAYER = ("sink_score", "mixing_score", "learned_sink_mass")


def check_profile(data: xr.Dataset, path: object) -> None:
    """Raise ``InputError`` where something is missing, or of another shape, that showing a profile reads."""
    shapes = {"n_tokens": ("prompt",), **dict.fromkeys(("sink_norm", *SUMMARY_OF_DEPTH), ("prompt", "depth"))}
    missing = shapes.keys() - set(data.variables)
    if missing:
        raise InputError(
            f"{path}: not a profile: {', '.join(sorted(missing))} missing; mcr_lens.read_dataset reads "
            "other results"
        )
    shapes |= dict.fromkeys(_SUMMARY_OF_LAYER, ("prompt", "layer", "head"))
    several = {dim for dim in STACKED if dim in data.norm_ratio.dims}
    wrong = [
        name
        for name, dims in shapes.items()
        if name in data.variables and not _fits(data[name], dims, several)
    ]
    if wrong:
        kinds = ", ".join(f"{name} ({', '.join(shapes[name])})" for name in sorted(wrong))
        raise InputError(f"{path}: not a profile: no numbers of the shape {kinds}")


def _fits(values: xr.DataArray, dims: Iterable[str], several: Set[str]) -> bool:
    """Numbers along these dimensions and those of several profiles, which the prompts may have in common."""
    along = set(values.dims)
    whole = along == set(dims) | several or (
        values.name == "n_tokens" and set(dims) <= along <= set(dims) | several
    )
    return values.dtype.kind in "fiu" and bool(values.size) and whole
