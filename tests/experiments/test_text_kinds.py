"""Spread within and between kinds of text, against components of variance that were set by hand."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.experiments import input_dependence

OFFSETS = {"prose": -1.0, "maths": 0.0, "code": 1.0}


def simulated(offset: float, within: float, seed: int, n: int = 400, peak: float = 50.0) -> mcr.Profile:
    """Depths 0-5, compressed at 2-4; every measure has the same spread, and the offset of its kind."""
    rng = np.random.default_rng(seed)
    ratio = np.array([1.0, 1, peak, peak, peak, 1])
    low = 0.2 if peak > 2 else 0.9
    entropy = np.array([0.9, 0.9, low, low, low, 0.9])
    score = 0.5 + offset + within * rng.normal(size=(n, 5, 4))
    return mcr.Profile(
        xr.Dataset(
            {
                "norm_ratio": (("prompt", "depth"), np.tile(ratio, (n, 1))),
                "normalized_entropy": (("prompt", "depth"), np.tile(entropy, (n, 1))),
                "matrix_entropy": (("prompt", "depth"), np.tile(2 * entropy, (n, 1))),
                "entropy_without_sink": (("prompt", "depth"), np.full((n, 6), 1.8)),
                "mixing_score": (("prompt", "layer", "head"), score),
            },
            coords={"depth": range(6), "layer": range(5), "head": range(4)},
        )
    )


def test_components_set_by_hand_are_read_back() -> None:
    profiles = {name: simulated(0.1 * at, 0.2, i) for i, (name, at) in enumerate(OFFSETS.items())}
    table: Any = input_dependence(profiles, n_resamples=200).set_index(["phase", "measure"])
    assert list(table.index.unique("phase")) == ["Mix", "Compress", "Refine"]
    for phase in ("Mix", "Compress"):
        row = table.loc[(phase, "mixing_score")]
        assert row["mean"] == pytest.approx(0.5, abs=0.01)
        assert row.within_kind == pytest.approx(0.2, rel=0.03)
        assert row.between_kinds == pytest.approx(0.1, rel=0.06)  # of -0.1, 0 and 0.1
        assert row.share_between == pytest.approx(0.2, abs=0.03)
        assert row.within_kind_low < 0.2 < row.within_kind_high
    flat = table.loc[("Compress", "norm_ratio")]
    assert (flat.within_kind, flat.between_kinds) == (0, 0) and np.isnan(flat.share_between)


def test_kinds_that_do_not_differ_have_nothing_between_them() -> None:
    profiles = {name: simulated(0, 0.2, seed, n=30) for seed, name in enumerate(OFFSETS)}
    row: Any = input_dependence(profiles, n_resamples=100).set_index(["phase", "measure"])
    assert row.loc[("Compress", "mixing_score")].between_kinds < 0.02


@pytest.mark.parametrize("gap", [0.0, 0.1, 0.4])
def test_intervals_cover_the_spread_between_kinds(gap: float) -> None:
    """Kinds that do not differ included: there the interval must reach down to nothing."""
    covered = 0
    for draw in range(100):
        profiles = {
            name: simulated(gap * at, 0.4, seed=1000 * draw + i, n=8)
            for i, (name, at) in enumerate(OFFSETS.items())
        }
        row: Any = input_dependence(profiles, n_resamples=99).set_index(["phase", "measure"])
        row = row.loc[("Compress", "mixing_score")]
        covered += row.between_kinds_low <= gap <= row.between_kinds_high  # sd of -gap, 0, gap
        assert row.between_kinds_low <= row.between_kinds <= row.between_kinds_high
        assert row.share_between_low <= row.share_between <= row.share_between_high
    assert covered >= 90  # of 95 in the mean; fewer than 90 with probability 0.01


def test_without_phases_all_depths_stand_together() -> None:
    profiles = {name: simulated(0, 0.1, seed, n=5, peak=2.0) for seed, name in enumerate(OFFSETS)}
    table = input_dependence(profiles, n_resamples=50)
    assert table.phase.unique().tolist() == ["all depths"]


def test_the_bundled_model_on_three_kinds(bundled_model: Any) -> None:
    texts = {"maths": mcr.prompts.word_problems(30), "code": mcr.prompts.library_code(12)}
    prompts = {name: mcr.load_prompts(found, bundled_model).cut(24)[:8] for name, found in texts.items()}
    profiles = {name: mcr.profile(bundled_model, found, progress=False) for name, found in prompts.items()}
    table = input_dependence(profiles, n_resamples=50)
    first = str(table.phase[0])
    depths = {"Mix": slice(0, 2), "all depths": slice(None)}[first]
    by_hand = [profile["norm_ratio"].values[:, depths].var(0, ddof=1) for profile in profiles.values()]
    row: Any = table.set_index(["phase", "measure"]).loc[(first, "norm_ratio")]
    assert row.within_kind == pytest.approx(np.sqrt(np.mean(by_hand)))
    assert set(table.measure) == {
        "mixing_score", "sink_attention", "identity_score", "norm_ratio", "normalized_entropy",
    }  # fmt: skip


def test_bad_input_is_told_in_one_line() -> None:
    one = simulated(0, 0.1, 0, n=3)
    with pytest.raises(InputError, match="two or more kinds"):
        input_dependence({"prose": one})
    with pytest.raises(InputError, match="code: one prompt has no spread"):
        input_dependence({"prose": one, "code": mcr.Profile(one.data.isel(prompt=[0]))})
    other = mcr.Profile(one.data.assign_attrs(model="another"))
    with pytest.raises(InputError, match="of different models"):
        input_dependence({"prose": one, "code": other})
