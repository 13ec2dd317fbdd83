"""Saved results, damaged or made up by somebody who knows the format: what loads can be shown."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pandas as pd
import xarray as xr
from fuzz.ugly import CELLS, JSON_VALUES, Draw, content_of, damaged
from hypothesis import strategies as st
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.caveats import caveats
from mcr_lens.experiments.ablation.study import OUTCOMES
from mcr_lens.result_files import netcdf
from mcr_lens.viz import report
from mcr_lens.viz._report.gather import gather

SHOWN = ["norm_ratio", "normalized_entropy", "normalized_entropy_without_sink", "anisotropy"]
SHOWN += [
    "anisotropy_bound",
    "sink_norm",
    "top_activation",
    "median_activation",
    "sink_score",
    "mixing_score",
]
ATTRIBUTES = (
    "schema model revision backend processing dtype device sink_position d_vocab learned_sink failed_checks "
    "interventions attached_hooks estimator prompts versions members sweep checkpoint arms ends_norm "
    "compressed_depths before_depth writes seed lens interval load_options"
).split()
TEXTS = st.lists(st.text(max_size=6), max_size=3)
PLAUSIBLE = st.one_of(
    st.text(max_size=20),
    st.integers(-1, 3),
    TEXTS,
    st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=3),
    st.dictionaries(
        st.sampled_from(["center", "alpha", "preset", "source", "digest"]), JSON_VALUES, max_size=2
    ),
    st.lists(st.integers(0, 3), max_size=3),
    JSON_VALUES,
)


def profile_data() -> xr.Dataset:
    data = made_profile([1, 200, 5]).data
    found = data[[name for name in SHOWN if name in data]]
    found["not_finite_depth"] = ("prompt", [-1, 1])
    found["not_finite_position"] = ("prompt", [-1, 3])
    return found.set_coords(["not_finite_depth", "not_finite_position"])


def study_data() -> xr.Dataset:
    rng = np.random.default_rng(0)
    by_depth = ("arm", "dose", "prompt", "depth")
    values: dict[str, Any] = {
        name: (by_depth, rng.random((2, 2, 3, 3))) for name in (*OUTCOMES[:3], "lens_loss")
    }
    values["sink_score"] = (("arm", "dose", "prompt", "layer", "head"), rng.random((2, 2, 3, 2, 1)))
    coords = {
        "arm": ["write, layer 0", "control: other token"],
        "kind": ("arm", ["treatment", "control"]),
        "dose": [0.0, 1.0],
        "depth": range(3),
        "layer": range(2),
        "prompt": range(3),
    }
    arms = {"write, layer 0": "takes it away", "control: other token": "elsewhere"}
    made = {"model": "x", "arms": arms, "ends_norm": ["write, layer 0"], "compressed_depths": [1, 2]}
    return xr.Dataset(values, coords, attrs=made | {"before_depth": 0, "result": "ablation study"})


@functools.cache
def saved(make: Callable[[], xr.Dataset]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return netcdf.write_dataset(make(), Path(folder) / "run.nc").read_bytes()


def tampered(draw: Draw, folder: Path, make: Callable[[], xr.Dataset]) -> Path | None:
    """A whole file with other attributes, and a seal that fits; ``None`` where HDF5 cannot hold them."""
    path = folder / "run.nc"
    path.write_bytes(saved(make)[: -netcdf._SEAL_LENGTH])
    known = make().attrs | {"schema": 1}
    some = st.dictionaries(st.sampled_from(ATTRIBUTES), PLAUSIBLE, max_size=3).map(lambda new: known | new)
    text = draw(some.map(json.dumps) | JSON_VALUES.map(json.dumps) | st.text())
    with h5py.File(path, "a") as file:
        try:
            file.attrs["mcr_lens"] = text
        except (ValueError, UnicodeEncodeError):
            return None
    content = path.read_bytes()
    path.write_bytes(content + netcdf._seal(content))
    return path


def results(draw: Draw, folder: Path, model: Any) -> None:
    """Anything changed is refused; nothing changed is read."""
    content = damaged(draw, saved(profile_data))
    path = folder / "run.nc"
    path.write_bytes(content)
    loaded = mcr.Profile.load(path)
    assert content == saved(profile_data)
    assert loaded.data.sizes["depth"] == 3


def attributes_of_profiles(draw: Draw, folder: Path, model: Any) -> None:
    path = tampered(draw, folder, profile_data)
    if path is None:
        return
    loaded = mcr.Profile.load(path)
    assert loaded.headline in repr(loaded)
    assert loaded._repr_html_().startswith("<p><b>")
    assert all(isinstance(sentence, str) for sentence in caveats(loaded))
    if draw(st.integers(0, 49)) == 0:
        assert report(path, folder / "page.html").is_file()


CHANGES = ("gone", "text", "float", "bool", "odd", "turned", "flat", "other", "stacked")


def other_variables(draw: Draw, data: xr.Dataset) -> xr.Dataset:
    """One or two variables of another type, with other values or dimensions, under another name, or gone."""
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(map(str, data.variables))))
        values = data[name]
        change = draw(st.sampled_from(list(CHANGES)))
        if change == "gone":
            data = data.drop_vars(name)
            continue
        if change == "turned":
            new = xr.Variable(values.dims[::-1], values.values.T)
        elif change == "stacked":
            new = values.expand_dims({draw(st.sampled_from(["model", "step", "arm", "dose"])): 2})
        elif change == "flat":
            new = xr.Variable((), values.values.flatten()[:1].sum()) if values.dtype.kind in "fiub" else None
        elif change == "odd":
            new = xr.Variable(
                values.dims, np.full(values.shape, draw(st.sampled_from([np.nan, np.inf, -7.5, 1e300])))
            )
        elif change == "other":
            new = xr.Variable([f"{dim}_2" for dim in values.dims], values.values)
        else:
            kind = {"text": "U8", "float": "f4", "bool": bool}[change]
            new = xr.Variable(values.dims, values.values.astype(kind))
        if new is not None:
            data = data.drop_vars(name)
            data = data.assign_coords({name: new}) if draw(st.booleans()) else data.assign({name: new})
    return data


def variables_of_profiles(draw: Draw, folder: Path, model: Any) -> None:
    """Whole files by somebody who knows the format, with other variables: what loads can be shown."""
    try:
        with mock.patch.object(netcdf, "check_variables"):
            path = netcdf.write_dataset(other_variables(draw, profile_data()), folder / "run.nc")
    except (TypeError, ValueError):  # no dataset at all
        return
    loaded = mcr.Profile.load(path)
    assert loaded.headline in repr(loaded)
    assert loaded._repr_html_().startswith("<p><b>")
    assert len(loaded.summary()) == loaded.data.sizes["depth"]
    assert all(isinstance(sentence, str) for sentence in caveats(loaded))


def attributes_of_studies(draw: Draw, folder: Path, model: Any) -> None:
    path = tampered(draw, folder, study_data)
    if path is None:
        return
    loaded = mcr.experiments.AblationStudy.load(path)
    assert loaded.outcomes().sizes["prompt"] == 3
    if draw(st.integers(0, 24)) == 0:  # four thousand resamples take their time
        assert loaded.headline in repr(loaded)
        assert loaded._repr_html_().startswith("<p><b>")
        assert report(path, folder / "page.html").is_file()


QUALITY = pd.DataFrame(
    {
        "use": ["text"] * 2,
        "kind": ["generation"] * 2,
        "metric": ["loss"] * 2,
        "depth": [0, 1],
        "quality": [2.0, 1.0],
        "low": [1.5, 0.5],
        "high": [2.5, 1.5],
        "kept": [0.5, 1.0],
    }
).to_csv(index=False)
BEST = (
    "use,kind,metric,best_depth,best_low,best_high,best_quality,last_depth,last_quality,gain,gain_low,gain_high,"
    "exit_depth,exit_low,exit_high,exit_kept,blocks_saved,units\n"
    "text,generation,loss,1,1,1,1.0,1,1.0,0.0,0.0,0.0,1,1,1,1.0,0,3\n"
)


def tables_of_tasks(draw: Draw, folder: Path, model: Any) -> None:
    """The folder that ``mcr-lens tasks`` writes, as a report reads it."""
    for name, text in (("quality.csv", QUALITY), ("best_depth.csv", BEST)):
        whole = text.encode()
        content = draw(st.sampled_from(["whole", "damaged", "other", "value"]))
        if content == "damaged":
            whole = damaged(draw, whole)
        elif content == "other":
            whole = draw(content_of(CELLS))
        elif content == "value":
            cells = text.split(",")
            odd = draw(st.sampled_from(["", "x", "1e999", "-1", '"', "nan"]))
            cells[draw(st.integers(0, len(cells) - 1))] = odd
            whole = ",".join(cells).encode()
        (folder / name).write_bytes(whole)
    gather([folder])


READERS = [results, attributes_of_profiles, variables_of_profiles, attributes_of_studies, tables_of_tasks]
