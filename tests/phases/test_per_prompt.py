"""Where single prompts and data sets have the boundaries: counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from populations import dataset
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.phases import constancy, find_phases

BEGINS = ["compression begins", "compression ends", "emergence layer (first)", "dissipation layer (last)"]


def prompts(*spans: tuple[int, int] | None, n_depths: int = 7) -> mcr.Profile:
    """A prompt a span: massive and compressed at its depths, both ends included."""
    ratio, entropy = np.ones((len(spans), n_depths)), np.full((len(spans), n_depths), 0.9)
    for row, span in enumerate(spans):
        if span is not None:
            ratio[row, span[0] : span[1] + 1] = 200
            entropy[row, span[0] : span[1] + 1] = 0.1
    return mcr.Profile(dataset(ratio, entropy, np.diff(ratio)))


def test_places_are_counted_over_prompts() -> None:
    table = prompts((1, 4), (1, 4), (1, 5), (2, 3), None).constancy()
    assert table.index.tolist() == BEGINS
    begins, ends = table.loc["compression begins"], table.loc["compression ends"]
    assert begins[["mode", "at_mode", "lowest", "highest", "having", "n"]].tolist() == [1, 0.75, 1, 2, 0.8, 5]
    assert ends[["mode", "at_mode", "lowest", "highest", "having", "n"]].tolist() == [4, 0.5, 3, 5, 0.8, 5]
    assert table.loc["emergence layer (first)", ["mode", "lowest", "highest"]].tolist() == [0, 0, 1]
    assert table.loc["dissipation layer (last)", ["mode", "lowest", "highest"]].tolist() == [4, 3, 5]


def test_each_prompt_is_read_as_a_profile_of_its_own() -> None:
    rng = np.random.default_rng(0)
    ratio = rng.choice([1.0, 50.0, 300.0], (60, 8))
    data = dataset(ratio, rng.uniform(size=ratio.shape), np.diff(ratio))
    alone = [find_phases(data.isel(prompt=[row])) for row in range(60)]
    table = constancy(data)
    for name, end in (("compression begins", 0), ("compression ends", 1)):
        places = [found.compress[end] for found in alone if found.compress]
        row = table.loc[name]
        assert (row.lowest, row.highest) == (min(places), max(places))
        assert row.at_mode == pytest.approx(places.count(row["mode"]) / len(places))
        assert row.having == pytest.approx(len(places) / 60)
    first = [found.emergence[0].layer for found in alone if found.emergence]
    last = [found.dissipation[-1].layer for found in alone if found.dissipation]
    for name, layers in (("emergence layer (first)", first), ("dissipation layer (last)", last)):
        row = table.loc[name]
        assert (row.lowest, row.highest) == (min(layers), max(layers))
        assert row.having == pytest.approx(len(layers) / 60)


def test_the_lowest_of_several_modes() -> None:
    assert prompts((3, 4), (1, 4)).constancy().loc["compression begins", "mode"] == 1


def test_over_data_sets_each_set_counts_once() -> None:
    sets = {
        "prose": prompts((1, 4), (1, 4)),
        "maths": prompts(*[(1, 5)] * 9),
        "code": prompts((1, 4)),
        "noise": prompts(None, None),
    }
    table = constancy(sets)
    assert table.loc["maths", "compression ends"].of_mean == 5
    over = table.loc["(over data sets)", "compression ends"]
    assert over[["mode", "lowest", "highest", "n"]].tolist() == [4, 4, 5, 4]
    assert (over.at_mode, over.having) == (pytest.approx(2 / 3), 0.75)
    assert table.loc["noise", "compression begins"][["of_mean", "mode"]].isna().all()
    assert table.loc["noise", "compression begins"].having == 0


def test_thresholds_reach_every_prompt() -> None:
    profile = made_profile([1, 8, 8, 2], [0.9, 0.85, 0.85, 0.9], n_prompts=3)
    assert (profile.constancy().having == 0).all()
    table = profile.constancy(min_compression=0.05)
    assert table.having.tolist() == [1, 1, 1, 1]
    assert table.attrs["min_compression"] == 0.05
    assert profile.constancy(min_compression=0.05, min_share=2).having.tolist() == [1, 1, 0, 0]


def test_missing_prompts_and_missing_writes() -> None:
    data = prompts((1, 4), (1, 4), (2, 4)).data
    data["matrix_entropy"][2] = np.nan
    assert constancy(data).n.unique().tolist() == [2]
    assert constancy(data.drop_vars("mlp_write_norm")).index.tolist() == BEGINS[:2]
    data["matrix_entropy"][:] = np.nan
    nothing = constancy(data)
    assert (nothing.n == 0).all() and nothing.having.isna().all()


def test_what_cannot_be_compared() -> None:
    with pytest.raises(mcr.InputError, match="no profile to compare"):
        constancy({})
    with pytest.raises(mcr.InputError, match="not of one model"):
        constancy({"a": prompts((1, 2)), "b": prompts((1, 2), n_depths=5)})
