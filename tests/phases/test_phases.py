"""Phases and layers that are known beforehand are read back; nothing is found where nothing is."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens import phases
from mcr_lens.phases.compression import compression_span


def test_a_dataset_gives_its_phases_without_torch() -> None:
    code = """
import sys
from populations import POPULATIONS
from mcr_lens.phases import change_points, constancy, correlations, find_phases
data = POPULATIONS["abrupt"].mean
print(find_phases(data).compress, change_points(data).depths, len(constancy(data)))
print([name for name in ("torch", "transformers", "transformer_lens") if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stderr == "" and run.stdout == "(2, 6) [2, 7] 4\n[]\n"


def test_mix_compress_refine() -> None:
    found = made_profile([1, 1, 200, 300, 290, 280, 3], [0.9, 0.95, 0.2, 0.1, 0.1, 0.2, 0.8]).phases()
    assert (found.mix, found.compress, found.refine) == ((0, 1), (2, 5), (6, 6))
    assert found.peak_depth == 3
    assert found.peak_compression == pytest.approx(1 - 0.1 / 0.9)
    assert found.headline == (
        "Mix depths 0-1, Compress depths 2-5 (kappa 0.89 [0.89, 0.89] at depth 3), Refine depth 6"
    )


def test_a_threshold_of_ones_own() -> None:
    profile = made_profile([2, 3, 2], [0.9, 0.85, 0.86])
    found = profile.phases(min_compression=0.04)
    assert (found.mix, found.compress, found.refine) == ((0, 0), (1, 2), None)
    assert found.headline.startswith("Mix depth 0, Compress depths 1-2 (kappa 0.06")
    assert found.headline.endswith("at depth 1), no Refine phase")
    assert profile.phases().headline == (
        "no compression phase: kappa 0.06 [0.06, 0.06] at depth 1; 0.1 is not reached"
    )


def test_compression_that_lasts() -> None:
    found = made_profile([1, 100, 120, 110], [0.9, 0.3, 0.2, 0.2]).phases()
    assert (found.mix, found.compress, found.refine) == ((0, 0), (1, 3), None)


def test_refinement_begins_where_half_of_the_compression_is_lost() -> None:
    found = made_profile([1, 1, 12, 10, 9, 7, 5], [0.9, 0.9, 0.3, 0.4, 0.45, 0.59, 0.64]).phases()
    assert (found.mix, found.compress, found.refine) == ((0, 1), (2, 5), (6, 6))
    later = made_profile([1, 1, 12, 10, 9, 7, 5], [0.9, 0.9, 0.3, 0.4, 0.45, 0.61, 0.64]).phases()
    assert later.compress == (2, 4)


def test_depths_as_deep_within_a_tie_go_to_the_earliest() -> None:
    found = made_profile([1] * 5, [0.9, 0.119, 0.85, 0.11, 0.9]).phases()
    assert (found.compress, found.other_valleys) == ((1, 1), ((3, 3),))
    assert made_profile([1] * 5, [0.9, 0.14, 0.85, 0.11, 0.9]).phases().compress == (3, 3)


def test_a_token_massive_from_the_embeddings_on_compresses_from_depth_0_on() -> None:
    found = made_profile([300, 200, 100, 1], [0.1, 0.1, 0.1, 0.9]).phases()
    assert (found.mix, found.compress, found.refine) == (None, (0, 2), (3, 3))
    assert found.headline.startswith("no Mix phase, Compress depths 0-2")


def test_an_entropy_that_falls_by_itself_is_no_phase() -> None:
    """The others' own entropy falls as much: nothing of it is the sink's."""
    profile = made_profile([1, 1, 1, 1], [0.9, 0.7, 0.5, 0.5])
    profile.data["entropy_without_sink"] = profile.data.matrix_entropy.copy()
    found = profile.phases()
    assert found.mix is found.compress is found.refine is None
    assert found.headline.startswith("no compression phase: kappa 0.00")


def test_a_kappa_that_may_be_chance_is_no_phase() -> None:
    profile = made_profile([1, 5, 1], [0.9, 0.5, 0.9], n_prompts=6)
    kappa = np.array([-0.9, 0.9, -0.7, 0.8, -0.5, 0.6])
    profile.data["entropy_without_sink"] = profile.data.matrix_entropy.copy()
    profile.data["matrix_entropy"][:, 1] *= 1 - kappa
    found = profile.phases(min_compression=0.01)
    assert found.compression[1] == pytest.approx(kappa.mean())
    assert found.compress is None
    assert found.headline.endswith("0.01 may be chance")


def test_the_run_around_the_peak_is_taken() -> None:
    found = made_profile([1, 20, 1, 300, 280, 1, 20], [0.9, 0.6, 0.9, 0.1, 0.1, 0.9, 0.6]).phases()
    assert (found.mix, found.compress, found.refine) == ((0, 2), (3, 4), (5, 6))


def test_prompts_with_nothing_to_measure_are_left_out() -> None:
    profile = made_profile([1, 200, 300, 5], [0.9, 0.2, 0.1, 0.8], n_prompts=3)
    expected = made_profile([1, 200, 300, 5], [0.9, 0.2, 0.1, 0.8], n_prompts=1).phases()
    for name in ("norm_ratio", "matrix_entropy", "sink_norm"):
        profile.data[name][0] = np.nan
    found = profile.phases()
    assert (found.mix, found.compress, found.refine) == (expected.mix, expected.compress, expected.refine)


def test_nothing_defined_at_all_is_no_phase() -> None:
    profile = made_profile([1, 2, 3])
    for name in ("norm_ratio", "matrix_entropy", "sink_norm", "norm_mass_ratio"):
        profile.data[name][:] = np.nan
    assert profile.phases().compress is None
    assert profile.emergence_layers() == []
    assert profile.dissipation_layers() == []
    assert "kappa is not known at any depth" in repr(profile)


# Emergence and dissipation


def test_one_stage() -> None:
    profile = made_profile([1, 1, 301, 300, 5], mlp_write=[0, 300, -1, -295])
    (written,), (removed,) = phases.emergence_stages(profile.data), phases.dissipation_stages(profile.data)
    assert (written.layer, written.write) == (1, "mlp")
    assert written.share == pytest.approx(300 / 301)
    assert (removed.layer, removed.write) == (3, "mlp")
    assert removed.share == pytest.approx(-295 / 301)
    assert profile.emergence_layers() == [1]
    assert profile.dissipation_layers() == [3]


def test_several_stages_and_the_larger_write() -> None:
    profile = made_profile(
        [1, 101, 101, 301, 151, 1],
        mlp_write=[100, 0, 60, -20, -150],
        attention_write=[0, 0, 140, -130, 0],
    )
    written = phases.emergence_stages(profile.data)
    removed = phases.dissipation_stages(profile.data)
    assert [(stage.layer, stage.write) for stage in written] == [(0, "mlp"), (2, "attention")]
    assert [(stage.layer, stage.write) for stage in removed] == [(3, "attention"), (4, "mlp")]
    assert [stage.share for stage in written] == pytest.approx([100 / 101, 200 / 301])


def test_small_writes_are_no_stages() -> None:
    profile = made_profile([1, 31, 301, 281, 1], mlp_write=[30, 270, -20, -280])
    assert profile.emergence_layers() == [
        0,
        1,
    ]  # the tenth of the norm that layer 0 writes compresses already
    assert profile.emergence_layers(min_share=0.95) == [0]
    assert profile.dissipation_layers() == [3]
    assert profile.dissipation_layers(min_share=0.05) == [2, 3]


def test_what_is_written_again_within_the_phase_is_a_later_stage() -> None:
    profile = made_profile([1, 301, 101, 201], mlp_write=[300, -200, 100])
    assert profile.emergence_layers() == [0, 2]
    assert profile.dissipation_layers() == [1]
    turned = made_profile([1, 301, 201], mlp_write=[300, 190])  # a new direction, and less norm
    assert turned.emergence_layers() == [0]


def test_no_massive_token_no_layers() -> None:
    profile = made_profile([1, 1.2, 1.5, 1.1], mlp_write=[0.2, 0.3, -0.4])
    assert profile.emergence_layers() == []
    assert profile.dissipation_layers() == []


def test_massive_embeddings_have_no_emergence_layer() -> None:
    profile = made_profile([300, 300, 1], mlp_write=[0, -299])
    assert profile.emergence_layers() == []
    assert profile.dissipation_layers() == [1]


def test_phases_of_several_profiles_at_once_are_refused() -> None:
    a = made_profile([1, 2, 3])
    stacked = mcr.Profile.concat([a, a], "step", [0, 1])
    for call in (stacked.phases, stacked.emergence_layers, stacked.dissipation_layers):
        with pytest.raises(mcr.InputError, match="select one step"):
            call()


def test_stages_are_part_of_the_answer() -> None:
    profile = made_profile([1, 101, 101, 301, 1], [0.9, 0.4, 0.4, 0.1, 0.9], mlp_write=[100, 0, 200, -300])
    found = profile.phases()
    assert found.emergence is not None and found.dissipation is not None
    assert [stage.layer for stage in found.emergence] == profile.emergence_layers() == [0, 2]
    assert [stage.layer for stage in found.dissipation] == profile.dissipation_layers() == [3]
    assert profile.phases(min_share=0.7).emergence == (found.emergence[0],)


def test_a_profile_without_writes_has_phases_and_no_stages() -> None:
    data = made_profile([1, 200, 5], [0.9, 0.1, 0.8]).data.drop_vars(["mlp_write_norm"])
    found = mcr.Profile(data).phases(confidence=0.95)
    assert found.compress == (1, 1)
    assert found.emergence is found.dissipation is None
    assert "written" not in str(found)


def test_a_norm_that_comes_and_goes_twice_is_told() -> None:
    twice = made_profile([1, 200, 300, 3, 250, 250, 3], [0.9, 0.1, 0.1, 0.9, 0.2, 0.2, 0.9])
    found = twice.phases()
    assert (found.compress, found.other_valleys) == ((1, 2), ((4, 5),))
    assert found.headline.endswith("Refine depths 3-6; also compressed: depths 4-5")
    later = made_profile([1, 200, 3, 250, 300, 3], [0.9, 0.3, 0.9, 0.1, 0.1, 0.9]).phases()
    assert (later.compress, later.other_valleys) == ((3, 4), ((1, 1),))


@pytest.mark.parametrize(
    ("plan", "written", "removed"),
    [
        ([(1, 300), (3, -299), (5, 280), (8, -279)], [1, 5], [3, 8]),
        ([(1, 150), (3, -149), (5, 400), (8, -399)], [1, 5], [3, 8]),
    ],
)
def test_layers_of_a_norm_that_comes_and_goes_twice(
    plan: list[tuple[int, int]], written: list[int], removed: list[int]
) -> None:
    write = np.zeros(10)
    for layer, size in plan:
        write[layer] = size
    norm = 1 + np.concatenate([[0.0], np.cumsum(write)])
    data = made_profile(norm.tolist(), n_prompts=2).data
    for name in ("sink_norm", "norm_ratio"):
        data[name] = (("prompt", "depth"), np.tile(norm, (2, 1)))
    for name, values in {"mlp_write_along": write, "mlp_write_norm": abs(write)}.items():
        data[name] = (("prompt", "layer"), np.tile(values, (2, 1)))
        data[name.replace("mlp", "attention")] = (("prompt", "layer"), np.zeros((2, 10)))
    profile = mcr.Profile(data)
    assert (profile.emergence_layers(), profile.dissipation_layers()) == (written, removed)


def test_depths_that_a_shorter_model_does_not_have_are_no_refinement() -> None:
    short, deep = made_profile([1, 200, 5], [0.9, 0.1, 0.8]), made_profile([1, 200, 200, 200, 5, 5])
    both = mcr.Profile.concat([short, deep], "model", ["short", "deep"])
    found = mcr.Profile(both.data.sel(model="short")).phases()
    assert (found.mix, found.compress, found.refine) == ((0, 0), (1, 1), (2, 2))


@pytest.mark.parametrize("n_depths", [1, 2, 5])
def test_curves_read_at_once_are_as_if_alone(n_depths: int) -> None:
    """The definition is written once, for one curve and for many."""
    rng = np.random.default_rng(n_depths)
    kappa = rng.choice([-0.5, 0.05, 0.15, 0.3, 0.8, np.nan], (300, n_depths))
    low = rng.choice([-0.1, 0.01], (300, n_depths), p=[0.3, 0.7])
    begins, ends, _ = compression_span(kappa, low)
    for row in range(len(kappa)):
        expected = plain_span(kappa[row], low[row])
        found = None if np.isnan(begins[row]) else (int(begins[row]), int(ends[row]))
        assert found == expected


def plain_span(kappa: np.ndarray, low: np.ndarray) -> tuple[int, int] | None:
    """The definition again, one depth at a time."""
    allowed = [depth for depth in range(len(kappa)) if kappa[depth] >= 0.1 and low[depth] > 0]
    if not allowed:
        return None
    largest = max(kappa[depth] for depth in allowed)
    first = last = next(depth for depth in allowed if kappa[depth] >= largest - 0.02)
    compressed = {depth for depth in allowed if kappa[depth] >= largest / 2}
    while first - 1 in compressed:
        first -= 1
    while last + 1 in compressed:
        last += 1
    return first, last
