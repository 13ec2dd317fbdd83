"""Profiles along training: files, resuming, one model in memory, and dates that were set by hand."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.experiments import appearance, profile_training
from mcr_lens.models.backend import as_module
from mcr_lens.models.training_run import Checkpoint

STEPS = [0, 1, 10, 100, 1000]


@pytest.fixture(scope="module")
def prompts(bundled_model: Any) -> mcr.Prompts:
    return mcr.load_prompts(mcr.prompts.word_problems(6), bundled_model)


def test_every_step_is_the_profile_of_its_model(prompts: mcr.Prompts) -> None:
    run = profile_training("tiny", prompts, [512, 0], progress=False)
    assert run.data.step.values.tolist() == [0, 512]
    alone = mcr.profile(mcr.load_model("tiny", revision="step512"), prompts, progress=False)
    np.testing.assert_array_equal(run.data.norm_ratio.sel(step=512), alone["norm_ratio"])


def test_the_bundled_model_grows_its_sinks_together(prompts: mcr.Prompts, tmp_path: Path) -> None:
    run = profile_training("tiny", prompts, "all", out=tmp_path, progress=False)
    found = appearance(run)
    assert found.dates.step.notna().all() and (found.dates.step > 512).all()
    assert len(list(tmp_path.iterdir())) == run.data.sizes["step"]


def test_finished_steps_are_read_and_new_ones_added(
    prompts: mcr.Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = profile_training("tiny", prompts, [0, 512], out=tmp_path, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_0.nc", "step_512.nc"]
    loaded: list[int] = []
    load = Checkpoint.load
    monkeypatch.setattr(Checkpoint, "load", lambda self: loaded.append(self.step) or load(self))
    again = profile_training("tiny", prompts, [0, 512, 20000], out=tmp_path, progress=False)
    assert loaded == [20000]
    xr.testing.assert_identical(again.data.sel(step=[0, 512]).norm_ratio, first.data.norm_ratio)


def test_a_run_that_breaks_keeps_what_is_finished(
    prompts: mcr.Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Checkpoint.load

    def breaking(self: Checkpoint) -> Any:
        if self.step == 20000:
            raise KeyboardInterrupt
        return load(self)

    monkeypatch.setattr(Checkpoint, "load", breaking)
    with pytest.raises(KeyboardInterrupt):
        profile_training("tiny", prompts, [0, 20000], out=tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0.nc"]


def test_files_of_another_run_are_refused(prompts: mcr.Prompts, bundled_model: Any, tmp_path: Path) -> None:
    profile_training("tiny", prompts, [0], out=tmp_path, progress=False)
    others = mcr.load_prompts(mcr.prompts.word_problems(3, seed=5), bundled_model)
    with pytest.raises(InputError, match=r"of another run \(prompts differ\)"):
        profile_training("tiny", others, [0], out=tmp_path, progress=False)
    with pytest.raises(InputError, match=r"\(options differ\)"):
        profile_training("tiny", prompts, [0], out=tmp_path, progress=False, backend="bridge")


def test_each_checkpoint_is_gone_before_the_next_is_loaded(
    prompts: mcr.Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    models: list[weakref.ref] = []
    load = Checkpoint.load

    def counting(self: Checkpoint) -> Any:
        gc.collect()
        alive.append(sum(model() is not None for model in models))
        model = load(self)
        models.append(weakref.ref(as_module(model)))
        return model

    monkeypatch.setattr(Checkpoint, "load", counting)
    profile_training("tiny", prompts, [0, 512, 20000], progress=False)
    assert alive == [0, 0, 0]


def planted(norm: list[float], entropy: list[float], rate: list[float], noise: float = 0.0) -> mcr.Profile:
    """Means over prompts set by hand: at each step the level at the second depth."""
    rng = np.random.default_rng(0)
    shape = (20, len(STEPS), 3)  # prompt, step, depth
    ratio, normalized = np.ones(shape), np.full(shape, 0.9)
    ratio[:, :, 1], normalized[:, :, 1] = norm, entropy
    score = np.where(np.arange(10) < np.array(rate)[:, None] * 10, 0.9, 0.0)  # step, head
    score = np.broadcast_to(score[None, :, None], (20, len(STEPS), 2, 10))
    return mcr.Profile(
        xr.Dataset(
            {
                "norm_ratio": (("prompt", "step", "depth"), ratio + noise * rng.normal(size=shape)),
                "normalized_entropy": (("prompt", "step", "depth"), normalized),
                "matrix_entropy": (("prompt", "step", "depth"), 2 * normalized),
                "entropy_without_sink": (("prompt", "step", "depth"), np.full(shape, 1.8)),
                "sink_score": (("prompt", "step", "layer", "head"), score.copy()),
            },
            coords={"step": STEPS, "depth": range(3), "layer": range(2)},
        )
    )


def test_dates_set_by_hand_are_read_back() -> None:
    together = planted([1, 2, 40, 90, 100], [0.9, 0.9, 0.8, 0.3, 0.2], [0, 0, 0, 0.5, 0.8], noise=0.5)
    found = appearance(together)
    assert found.dates.step.tolist() == [100, 100, 100]
    assert found.dates.after.tolist() == [10, 10, 10]
    assert found.dates[["low", "high"]].to_numpy().tolist() == [[100, 100]] * 3
    assert found.lags.together.all()
    apart = appearance(planted([1, 60, 90, 90, 100], [0.9, 0.9, 0.9, 0.9, 0.2], [0, 0, 0, 0, 0]))
    assert apart.dates.step.tolist()[:2] == [1, 1000]
    assert np.isnan(apart.dates.step["sinks"])
    assert "sinks: does not appear (0.00 at the last step)" in str(apart)
    assert "valley later, +3 checkpoints [+3, +3]" in str(apart)
    assert apart.lags.factor[0] == 1000 and apart.lags.together[0] is False


def test_what_goes_again_has_not_yet_appeared() -> None:
    found = appearance(planted([1, 90, 2, 90, 100], [0.9, 0.2, 0.2, 0.2, 0.2], [0, 1, 1, 1, 1]))
    assert found.dates.step["norm ratio"] == 100
    assert found.dates.step["sinks"] == 1


def test_an_uncertain_date_has_a_wide_interval_and_a_certain_one_none() -> None:
    """Half of the prompts change at step 10, half at step 100: half-way is a toss between the two."""
    run = planted([1, 2, 50, 100, 100], [0.9, 0.9, 0.2, 0.2, 0.2], [0, 0, 1, 1, 1])
    run.data["norm_ratio"].values[10:, 2, 1] = 1.0
    run.data["norm_ratio"].values[:10, 2, 1] = 99.0
    found = appearance(run)
    assert (found.dates.low["norm ratio"], found.dates.high["norm ratio"]) == (10, 100)
    assert (found.dates.low["valley"], found.dates.high["valley"]) == (10, 10)


def test_bad_input_is_told() -> None:
    run = planted([1] * 5, [0.9] * 5, [0] * 5)
    with pytest.raises(InputError, match="between 0 and 1"):
        appearance(run, share=1.5)
    with pytest.raises(InputError, match="two or more steps"):
        appearance(mcr.Profile(run.data.isel(step=0)))
