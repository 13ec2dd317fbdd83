"""Prompts in parts and together again, and the groups of cells that are computed together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import mcr_lens as mcr
from mcr_lens.sweeps import Grid, ResultFolder, SweepArm, SweepModel, SweepPrompts, cells, sweep
from mcr_lens.sweeps.run import groups, run_group
from mcr_lens.sweeps.shards import merged, shard, with_whole

EMERGENCE = SweepArm("ablate_mlp_write", layers="emergence")
MADE_UP = SweepPrompts("made-up", n=3)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(1, 40))
def test_every_prompt_is_in_one_shard_in_order(lengths: list[int], count: int) -> None:
    prompts = mcr.Prompts.from_tokens([[i] * length for i, length in enumerate(lengths)])
    parts = [shard(prompts, index, count) for index in range(count)]
    found = [tokens for part in parts if part is not None for tokens in part.tokens]
    assert tuple(found) == prompts.tokens
    # No part is larger than its share by more than a prompt.
    tokens = [sum(part.lengths) for part in parts if part is not None]
    assert max(tokens) <= sum(lengths) / count + max(lengths)


def test_prompts_of_one_length_are_shared_out_evenly() -> None:
    prompts = mcr.Prompts.from_tokens([[0, 1, 2]] * 12)
    for count in (1, 2, 3, 4, 6, 12):
        assert [len(shard(prompts, index, count) or ()) for index in range(count)] == [12 // count] * count


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_merged_profile_is_that_of_all_prompts(bundled_model: Any, count: int) -> None:
    # The first three tokens long: their top columns are fewer than those of the others.
    lengths = [3, 3, 20, 7, 31, 12, 5]
    prompts = mcr.Prompts.from_tokens([[0, *range(20, 19 + n)] for n in lengths], source="ragged")
    whole = mcr.profile(bundled_model, prompts, progress=False)
    parts = [shard(prompts, index, count) for index in range(count)]
    profiles = [
        with_whole(mcr.profile(bundled_model, part, progress=False), prompts)
        for part in parts
        if part is not None
    ]
    assert len(profiles) == count
    same(merged(profiles), whole)


def same(found: mcr.Profile, expected: mcr.Profile) -> None:
    """Everything but float error."""
    assert found.data.attrs == expected.data.attrs
    assert list(found.data.data_vars) == list(expected.data.data_vars)
    assert list(found.data.coords) == list(expected.data.coords)
    for name, values in expected.data.variables.items():
        there = found.data.variables[name]
        assert (there.dims, there.dtype) == (values.dims, values.dtype)
        np.testing.assert_allclose(there.values, values.values, rtol=1e-6, atol=1e-6, err_msg=str(name))
    xr.testing.assert_identical(found.data.coords.to_dataset(), expected.data.coords.to_dataset())


def test_shards_that_were_measured_differently_are_refused(llama_profile: mcr.Profile) -> None:
    other = mcr.Profile(llama_profile.data.copy())
    other.data.attrs = other.data.attrs | {"device": "cuda"}
    with pytest.raises(mcr.InputError, match="shards differ in device: cpu and cuda"):
        merged([llama_profile, other])


def grouped(grid: Grid, workers: int, shards: int = 1) -> list[list[tuple[str, str, int]]]:
    parts = [part for cell in cells(grid) for part in cell.shards(shards)]
    return [
        [(cell.model.label, cell.arm.label, (cell.shard or (0, 1))[0]) for cell in group]
        for group in groups(parts, workers)
    ]


def test_a_group_is_of_one_model_and_there_is_one_for_every_worker() -> None:
    arms = [SweepArm(), SweepArm("ablate_mlp_write", layers=(1,)), EMERGENCE]
    labels = [arm.label for arm in arms]
    grid = Grid([SweepModel("a"), SweepModel("b")], [MADE_UP], arms)
    of_model = {name: [(name, label, 0) for label in labels] for name in "ab"}
    assert grouped(grid, 1) == grouped(grid, 2) == list(of_model.values())
    # Cut, a model has the baseline that another group waits for in a group of its own.
    of_a = [[("a", "baseline", 0)], [("a", labels[1], 0)], [("a", labels[2], 0)]]
    assert grouped(grid, 6)[:3] == of_a
    plain = Grid([SweepModel("a")], [MADE_UP], [SweepArm("ablate_mlp_write", layers=(i,)) for i in range(12)])
    assert list(map(len, grouped(plain, 2))) == [6, 6]
    assert list(map(len, grouped(plain, 5))) == [3, 3, 3, 3]


def test_shards_of_a_baseline_are_not_in_the_group_of_what_waits_for_all_of_them() -> None:
    first, second = grouped(Grid([SweepModel("a")], [MADE_UP], [SweepArm(), EMERGENCE]), 1, shards=2)
    assert first == [("a", "baseline", 0), ("a", "baseline", 1)]
    assert second == [("a", EMERGENCE.label, 0), ("a", EMERGENCE.label, 1)]


def test_shards_are_joined_to_the_file_of_the_whole(tmp_path: Path) -> None:
    """With a shard that has no prompt: there are fewer prompts than shards."""
    grid, out, whole = (
        Grid([SweepModel("tiny")], [MADE_UP]),
        ResultFolder(tmp_path / "out"),
        tmp_path / "whole",
    )
    (cell,) = cells(grid)
    out.prepare([cell])
    assert len(list(run_group(cell.shards(5), out))) == 5
    assert not out.is_done(cell) and sum(map(out.is_done, cell.shards(5))) == 3
    out.join(cell.shards(5)[0])
    assert [path.name for path in out.place.iterdir()] == [f"{cell.name}.nc"]
    sweep(grid, whole, progress=False)
    same(out.result(cell), ResultFolder(whole).result(cell))


def test_a_cell_fails_of_its_first_shard_that_does(tmp_path: Path) -> None:
    (cell,), out = cells(Grid([SweepModel("tiny")], [MADE_UP])), ResultFolder(tmp_path)
    out.prepare([cell])
    shards = cell.shards(3)
    list(run_group(shards[:1], out))
    for part, message in zip(shards[:0:-1], ("second", "first"), strict=True):
        out.record(part, ValueError(message))
    out.join(shards[2])
    error = out.error(cell)
    assert error is not None and error["message"] == "first"
    assert [path.name for path in tmp_path.iterdir()] == [f"{cell.name}.error.json"]


def test_a_shard_that_is_gone_fails_the_cell(tmp_path: Path) -> None:
    (cell,), out = cells(Grid([SweepModel("tiny")], [MADE_UP])), ResultFolder(tmp_path)
    out.prepare([cell])
    list(run_group(cell.shards(2), out))
    out.result_path(cell.shards(2)[1]).unlink()
    out.join(cell.shards(2)[0])
    error = out.error(cell)
    assert error is not None and "a shard is missing" in error["message"]
