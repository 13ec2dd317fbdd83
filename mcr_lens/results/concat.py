"""Datasets of several profiles put together as one, or refused."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from mcr_lens.errors import InputError

__all__ = ["Dimension", "concat_datasets"]

Dimension = Literal["prompt", "model", "step", "arm"]


def concat_datasets(
    datasets: Sequence[xr.Dataset], dim: Dimension, labels: Sequence[object] | None = None
) -> xr.Dataset:
    """Several datasets as one; arguments and errors as in ``Profile.concat``."""
    if dim not in ("prompt", "model", "step", "arm"):
        raise InputError(f"dim {dim!r}: use 'prompt', 'model', 'step' or 'arm'")
    if not datasets:
        raise InputError("no profiles to concatenate: give at least one")
    _refuse_mixture([data.attrs for data in datasets], dim)
    datasets = _of_one_length(_with_all_coordinates(datasets))
    attributes = [dict(part.attrs) for part in datasets]
    if dim == "prompt":
        depths = {part.sizes["depth"] for part in datasets}
        if len(depths) > 1:
            raise InputError(f"profiles of {sorted(depths)} depths are not of one model: use dim='model'")
        joined = xr.concat(datasets, "prompt", combine_attrs="drop")
        joined = joined.assign_coords(prompt=range(joined.sizes["prompt"]))
        joined.attrs = attributes[0] | {"prompts": [part for each in attributes for part in _origins(each)]}
    else:
        names = labels if labels is not None else [each.get("model") for each in attributes]
        if len(names) != len(datasets) or len(set(names)) != len(datasets):
            raise InputError(f"labels {list(names)}: give one different label a profile, labels=[...]")
        index = pd.Index(list(names), name=dim)
        joined = xr.concat(datasets, index, join="outer", combine_attrs="drop")
        joined.attrs = attributes[0] | {"members": attributes}
    return joined


def _with_all_coordinates(datasets: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Datasets with -1, which is "not known", for what an earlier version did not note of their prompts."""
    noted = {name: at for data in datasets for name, at in data.coords.items() if name not in data.dims}
    return [
        data.assign_coords(
            {
                name: (at.dims, np.full([data.sizes.get(dim, at.sizes[dim]) for dim in at.dims], -1))
                for name, at in noted.items()
                if name not in data.coords and "prompt" in at.dims
            }
        )
        for data in datasets
    ]


def _of_one_length(datasets: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Datasets filled up, as an observer does it, where a dimension is as long as the longest prompt asks."""
    dims = {dim for data in datasets for dim in data.dims}
    lengths = dims - {"prompt"}.union(*(data.coords for data in datasets))
    numbers = {name: values for data in datasets for name, values in data.variables.items()}
    fill: Any = {name: np.nan if values.dtype.kind == "f" else -1 for name, values in numbers.items()}
    # Align needs an index, for as long as it takes.
    indexes = [{dim: range(data.sizes[dim]) for dim in lengths & {*data.dims}} for data in datasets]
    indexed = [data.assign_coords(index) for data, index in zip(datasets, indexes, strict=True)]
    aligned = xr.align(*indexed, join="outer", exclude=dims - lengths, fill_value=fill)
    return [data.drop_vars(lengths & {*data.dims}) for data in aligned]


def _refuse_mixture(attributes: Sequence[dict[str, Any]], dim: str) -> None:
    """Refuse to put together what would mean different things in one array."""
    same = ["estimator", "sink_position"]
    if dim == "prompt":
        same += ["model", "revision", "backend", "dtype", "processing", "load_options", "interventions"]
    for name in same:
        values = [each.get(name) for each in attributes]
        if any(value != values[0] for value in values):
            raise InputError(f"profiles differ in {name}: {values}; they cannot stand along {dim!r}")
    if dim in ("step", "arm"):
        digests = [[part.get("digest") for part in _origins(each)] for each in attributes]
        if any(digest != digests[0] for digest in digests):
            raise InputError(f"profiles along {dim!r} must be of the same prompts")


def _origins(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    """Where a profile's prompts came from; several places when it was put together along prompts."""
    prompts = attributes.get("prompts", {})
    return prompts if isinstance(prompts, list) else [prompts]
