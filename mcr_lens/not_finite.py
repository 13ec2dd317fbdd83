"""The rule for Inf and NaN: a prompt whose state is not finite at a depth is NaN from there on, and told.

A result says so by one coordinate, ``not_finite_depth`` of its prompts: the first depth at which a state
holds Inf or NaN, -1 where all is finite. Logits may overflow out of a finite state: then what rests on them
is NaN in that prompt and depth alone.
"""

import warnings

import numpy as np
import xarray as xr

__all__ = ["NotFiniteWarning", "not_finite_note", "remedy", "warn_not_finite", "without_broken"]

# Whose states may be broken: prompts, questions that were asked as several of them, or their answers.
_UNITS = ("prompt", "document", "answer")
# What is read out of the logits of a depth: NaN in all of them where they overflow.
_OF_LOGITS = ("lens_loss", "log_likelihood")


class NotFiniteWarning(RuntimeWarning):
    """What ``not_finite_note`` says, as a warning; of its own kind, since a part's is not the whole's."""


def without_broken(data: xr.Dataset) -> xr.Dataset:
    """NaN (-1 for integers) for a prompt from its first broken depth on, and in the layers that read it."""
    begins = data.not_finite_depth
    if not bool((begins >= 0).any()):
        return data
    coordinates = [name for name, values in data.coords.items() if len(values.dims) > 1]
    data = data.reset_coords(coordinates)
    for name, values in data.data_vars.items():
        along = next((dim for dim in ("depth", "layer") if dim in values.dims), None)
        if along and "prompt" in values.dims and values.dtype.kind in "fiu":
            missing = np.nan if values.dtype.kind == "f" else -1
            data[name] = values.where((begins < 0) | (data[along] < begins), missing)
    return data.set_coords(coordinates)


def warn_not_finite(data: xr.Dataset, dtype: str | None) -> None:
    """The note as a ``NotFiniteWarning``, where there is one."""
    if note := not_finite_note(data, dtype):
        warnings.warn(note, NotFiniteWarning, stacklevel=3)


def not_finite_note(data: xr.Dataset, dtype: str | None = None) -> str | None:
    """How many prompts (or questions) of a result hold Inf or NaN, and where it begins; ``None`` without any.

    The first is the one of the least depth, and there the first prompt; where the result has arms, doses,
    models or steps, its own is named. ``dtype`` is the model's, for what may help.
    """
    if "not_finite_depth" not in data.coords:
        return None
    begins = data.not_finite_depth
    notes = [_note(begins, "the residual stream")]
    name = next((name for name in _OF_LOGITS if name in data and "depth" in data[name].dims), None)
    if name is not None:
        notes.append(_note(_first_lost(data, name), "logits read out of finite states"))
    words = " ".join(note for note in notes if note)
    return words + remedy(dtype) if words else None


def remedy(dtype: str | None) -> str:
    """What may help against Inf and NaN in a model of this dtype: a sentence to append, or nothing."""
    return " float16 ends at 65,504: load the model in bfloat16 or float32." if dtype == "float16" else ""


def _first_lost(data: xr.Dataset, name: str) -> xr.DataArray:
    """The first depth at which logits are lost though the state is finite, -1 for none."""
    values, begins = data[name], data.not_finite_depth
    if "answer" in values.dims:
        begins = begins.sel(prompt=data.prompt_of_answer).drop_vars("prompt")
    lost = values.isnull().all("choice") if "choice" in values.dims else values.isnull()
    lost = lost & ((begins < 0) | (data.depth < begins))
    if "prompt" in lost.dims:  # after the only token of a prompt nothing is predicted
        lost = lost & (data.n_tokens > 1)
    if "norm_ratio" in data:  # one of several profiles may have no lens, or fewer depths
        lost = lost & data.norm_ratio.notnull() & values.notnull().any("depth")
    first = data.depth.isel(depth=lost.argmax("depth")).drop_vars("depth")
    return first.where(lost.any("depth"), -1)


def _note(depths: xr.DataArray, what: str) -> str | None:
    """A sentence about the first of several depths, -1 where there is none."""
    unit = next((dim for dim in _UNITS if dim in depths.dims), None)
    if unit is None or not bool((depths >= 0).any()):
        return None
    depths = depths.transpose(unit, ...)
    broken = depths.values >= 0
    least = np.where(broken, depths.values, np.inf).argmin()
    at = np.unravel_index(least, depths.shape)
    labels = {dim: depths[dim].values[i] for dim, i in zip(depths.dims, at, strict=True)}
    depth = int(depths.values[at])
    left_by = f"which layer {depth - 1} leaves behind" if depth else "the embedding"
    also = "".join(f", {dim} {label}" for dim, label in labels.items() if dim != unit)
    n = int(broken.reshape(len(broken), -1).any(1).sum())
    return (
        f"Inf or NaN in {what} of {n} of {len(broken)} {unit}s, first in {unit} {labels[unit]} "
        f"at depth {depth} ({left_by}){also}: what rests on them is NaN and left out of every mean."
    )
