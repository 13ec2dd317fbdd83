"""Prompts in parts and together again, the order of work, and a worker, without any other process."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import mcr_lens as mcr
from mcr_lens.models import memory
from mcr_lens.models.memory import Sharing
from mcr_lens.sweeps import Grid, SweepArm, SweepModel, SweepPrompts, cells, compute
from mcr_lens.sweeps.queue import Task, TaskQueue
from mcr_lens.sweeps.shards import merged, shard
from mcr_lens.sweeps.worker import Failed, Measured, Worker

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
    profiles = [mcr.profile(bundled_model, part, progress=False) for part in parts if part is not None]
    assert len(profiles) == count
    same(merged(profiles, prompts.attributes()), whole)


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
        merged([llama_profile, other], {})


def queue(arms: list[SweepArm], shards: int = 1, models: tuple[str, ...] = ("tiny",)) -> TaskQueue:
    return TaskQueue(cells(Grid([SweepModel(name) for name in models], [MADE_UP], arms)), shards)


def test_an_arm_waits_for_its_baseline_and_others_do_not() -> None:
    work = queue([SweepArm(), EMERGENCE, SweepArm("ablate_mlp_write", layers=(1,))], shards=2)
    order = [work.next(None, []) for _ in range(5)]
    assert order == [Task(0, 0), Task(0, 1), Task(2, 0), Task(2, 1), None]
    work.finish(2)
    assert work.next(None, []) is None
    work.finish(0)
    assert work.next(None, []) == Task(1, 0)
    work.again(Task(1, 0))
    work.again(Task(2, 1))  # of a cell that is finished
    assert [work.next(None, []) for _ in range(3)] == [Task(1, 0), Task(1, 1), None]
    assert work.unfinished == {1}


def test_a_worker_keeps_its_model_and_others_take_models_that_nobody_has() -> None:
    work = queue([SweepArm(), SweepArm("ablate_mlp_write", layers=(1,))], models=("a", "b"))
    first, second = cells(Grid([SweepModel("a"), SweepModel("b")], [MADE_UP]))
    keys = [work._keys[0], work._keys[2]]
    assert first.model.source == "a" and second.model.source == "b" and keys[0] != keys[1]
    assert work.next(None, [None]) == Task(0, 0)
    assert work.next(None, [keys[0]]) == Task(2, 0)
    assert work.next(keys[1], [keys[0]]) == Task(3, 0)
    assert work.next(keys[1], [keys[0]]) == Task(1, 0)  # nothing else is left


def test_a_worker_answers_with_profiles_and_says_at_what_it_failed(
    tmp_path: Path, bundled_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded: list[str] = []
    load = SweepModel.load
    monkeypatch.setattr(
        SweepModel, "load", lambda self, revision: loaded.append(self.source) or load(self, revision)
    )
    arms = [SweepArm(), SweepArm("ablate_mlp_write", layers=(99,))]
    sets = [MADE_UP, SweepPrompts("none.txt")]
    baseline, no_layer, no_prompts, _ = cells(Grid([SweepModel("tiny")], sets, arms))
    worker = Worker(str(tmp_path), 1, Sharing())
    answer = worker.run(baseline, 0, 2, None)
    assert isinstance(answer, Measured) and answer.profile is not None
    prompts = MADE_UP.load(bundled_model)
    assert (answer.n_prompts, answer.prompts) == (3, prompts.attributes())
    part = shard(prompts, 0, 2)
    assert part is not None
    expected = compute(baseline, bundled_model, part)
    xr.testing.assert_allclose(answer.profile.data, expected.data)
    assert worker.begun() == len(part)
    empty = worker.run(baseline, 77, 99, None)
    assert isinstance(empty, Measured) and empty.profile is None
    for cell, at, words in ((no_layer, "cell", "layer"), (no_prompts, "prompts", "none.txt")):
        failed = worker.run(cell, 0, 1, None)
        assert isinstance(failed, Failed)
        assert failed.at == at and words in failed.failure.message
        assert failed.failure.error == "InputError"
        assert "Traceback" in failed.failure.traceback and "worker.py" in failed.failure.traceback
    assert loaded == ["tiny"]
    failed = worker.run(replace(baseline, model=SweepModel("./none")), 0, 1, None)
    assert isinstance(failed, Failed) and failed.at == "model"
    # What failed is not kept for a model.
    again = worker.run(baseline, 0, 1, None)
    assert isinstance(again, Measured) and loaded == ["tiny", "./none", "tiny"]


def test_a_worker_counts_with_its_part_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sharing] = []

    def chunk(*given: Any) -> None:
        asked.append(memory._SHARING.get())

    monkeypatch.setattr("mcr_lens.engine.auto_chunk", chunk)
    (cell,) = cells(Grid([SweepModel("tiny", chunk="auto")], [MADE_UP]))
    assert isinstance(Worker(str(tmp_path), 1, Sharing(4, 2)).run(cell, 0, 1, None), Measured)
    assert asked == [Sharing(4, 2)] and memory._SHARING.get() == Sharing()


def test_a_worker_hands_warnings_on_but_not_those_of_a_shard_s_broken_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcr_lens.not_finite import NotFiniteWarning
    from mcr_lens.sweeps import worker as module

    def noisy(*given: Any, **options: Any) -> Any:
        warnings.warn("prompt 0 of a shard", NotFiniteWarning, stacklevel=1)
        warnings.warn("slow", RuntimeWarning, stacklevel=1)
        return compute(*given, **options)

    monkeypatch.setattr(module, "compute", noisy)
    monkeypatch.chdir(tmp_path)
    (cell,) = cells(Grid([SweepModel("tiny")], [MADE_UP]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = Worker(str(tmp_path), 1, Sharing()).run(cell, 0, 1, None)
    assert isinstance(answer, Failed)  # as errors they are the cell's
    answer = Worker(str(tmp_path), 1, Sharing()).run(cell, 0, 1, None)
    assert isinstance(answer, Measured) and (RuntimeWarning, "slow") in answer.warnings
    assert not any("shard" in words for _, words in answer.warnings)
