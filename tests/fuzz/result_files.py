"""Saved results and tables that are damaged: an error, a warning, or nothing that is read has changed."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from fuzz.ugly import CELLS, Draw, content_of, damaged
from hypothesis import strategies as st
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.experiments.ablation.study import OUTCOMES
from mcr_lens.results import save_dataset
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


def profile_data() -> xr.Dataset:
    data = made_profile([1, 200, 5]).data
    found = data[[name for name in SHOWN if name in data]]
    found["not_finite_depth"] = ("prompt", [-1, 1])
    return found.set_coords("not_finite_depth")


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
        return save_dataset(make(), Path(folder) / "run.nc").read_bytes()


def results(draw: Draw, folder: Path, model: Any) -> None:
    """Whatever is damaged is refused, or read with a warning, or nothing that is read has changed."""
    content = damaged(draw, saved(profile_data))
    path = folder / "run.nc"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = mcr.load(path)
    if not caught:
        xr.testing.assert_equal(loaded.data, profile_data())


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


READERS = [results, tables_of_tasks]
