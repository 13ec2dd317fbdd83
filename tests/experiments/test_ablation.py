"""The ablation study on planted models, where the truth is known, and on data where nothing happens."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from planted import planted_folder

import mcr_lens as mcr
from mcr_lens.errors import InputError

ARM_WRITE, RANDOM = "write, layer 1", "control: random direction"


def ragged(n: int = 12) -> mcr.Prompts:
    rng = np.random.default_rng(0)
    return mcr.Prompts.from_tokens(
        [[1, *rng.integers(3, 64, length).tolist()] for length in rng.integers(10, 24, n)]
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> mcr.experiments.AblationStudy:
    options = {"emergence": (1,), "dissipation": (5,), "sink_layers": (2, 3, 4)}
    model = mcr.load_model(planted_folder(tmp_path_factory.mktemp("study"), **options))
    return mcr.ablation_study(model, ragged(), doses=(0.5, 1), progress=False)


def test_the_planted_layer_is_named_and_its_write_ends_everything(
    study: mcr.experiments.AblationStudy,
) -> None:
    assert study.data.attrs["writes"] == {"1": "mlp"}
    effects: Any = study.effects().set_index(["arm", "versus", "outcome"])
    for arm in (ARM_WRITE, "norm clamp", "zeroed dimensions"):
        # The planted keys read the direction of the state, which a clamp leaves: its sinks stay.
        for outcome in ("norm_ratio", "normalized_entropy", "sink_rate")[: 2 if arm == "norm clamp" else 3]:
            assert effects.loc[(arm, "baseline", outcome)].removed > 0.9, (arm, outcome)
    for arm, gone in ((ARM_WRITE, True), ("norm clamp", False), ("zeroed dimensions", True)):
        row = effects.loc[(arm, "baseline", "sink_rate")]
        assert (row.removed_low > 0.5 and row.p_adjusted < 0.05) if gone else row.removed_high < 0.1
    assert {claim.question: claim.verdict for claim in study.claims()} == {
        "Check (arithmetic): does kappa fall with the norm?": "holds",
        "Do the sinks go with the norm alone?": "not supported",
        "Does the other tokens' own entropy move with the norm alone?": "not supported",
        "Does losing the norm alone cost loss?": "cannot be said",
        "Do the sinks go with the direction alone?": "supported",
        "Does the other tokens' own entropy move with the direction alone?": "not supported",
        "Does losing the direction alone cost loss?": "cannot be said",
        "Do the sinks go with norm and direction together?": "supported",
        "Does the other tokens' own entropy move with norm and direction together?": "not supported",
        "Does losing norm and direction together cost loss?": "cannot be said",
    }


def test_arms_are_sorted_by_what_they_changed(study: mcr.experiments.AblationStudy) -> None:
    changed = study.verdicts().groupby("arm").changed.first().to_dict()
    assert changed == {
        ARM_WRITE: "norm and direction",
        "zeroed dimensions": "norm and direction",
        "norm clamp": "norm",
        "random direction, norm kept": "direction",
    }
    changes = study.data.attrs["changes"]
    assert changes["norm clamp"]["cosine"] == pytest.approx(1, abs=1e-6)
    assert changes["random direction, norm kept"]["norm"] == pytest.approx(1, abs=1e-5)
    # A vector as long as the write, at nearly right angles to it.
    assert changes[RANDOM]["norm"] == pytest.approx(np.sqrt(2), rel=0.15)


def test_a_name_sorts_nothing(study: mcr.experiments.AblationStudy) -> None:
    changes = study.data.attrs["changes"] | {"norm clamp": {"norm": 0.9, "cosine": 1.0}}
    other = mcr.experiments.AblationStudy(study.data.assign_attrs(changes=changes))
    assert "norm clamp" not in set(other.verdicts().arm)
    assert not any("norm alone" in claim.question for claim in other.claims())


def test_the_random_control_has_every_draw_and_its_seed(study: mcr.experiments.AblationStudy) -> None:
    draws = study.data.random_direction
    assert draws.sizes["draw"] == 20 and "(seed 0)" in study.data.attrs["arms"][RANDOM]
    assert len(np.unique(draws.sel(outcome="norm_ratio").mean("prompt"))) == 20
    found = study.outcomes().sel(arm=RANDOM)
    np.testing.assert_allclose(found.loss.sel(dose=1), draws.sel(outcome="loss").mean("draw"))
    assert found.loss.sel(dose=0.5).isnull().all()
    np.testing.assert_allclose(found.loss.sel(dose=0), study.outcomes().loss.sel(dose=0).isel(arm=0))
    assert "20 draws: 0% to 0%" in study.claims()[1].why


def test_controls_of_equal_norm_leave_the_planted_sinks(study: mcr.experiments.AblationStudy) -> None:
    effects: Any = study.effects().set_index(["arm", "versus", "outcome"])
    for control in (RANDOM, "control: other token"):
        assert abs(effects.loc[(control, "baseline", "sink_rate")].removed) < 0.02
        assert (ARM_WRITE, control, "sink_rate") in effects.index
    # The vector that was subtracted there is as long as the sink's own state.
    ratio = study.outcomes().norm_ratio.mean("prompt").sel(dose=1)
    assert float(ratio.sel(arm="control: other token")) < 0.2 * float(ratio.sel(arm="blocked sink"))


def test_the_first_layer_after_an_edit_is_no_outcome(study: mcr.experiments.AblationStudy) -> None:
    assert 2 in study.data.attrs["compressed_depths"]  # the layer that reads it has planted sinks
    layers = [depth for depth in study.data.attrs["compressed_depths"] if depth > 2]
    score = study.data.sink_score.sel(layer=layers)
    expected = (score > 0.3).mean(["layer", "head"])
    np.testing.assert_allclose(study.outcomes().sink_rate.sel(arm=ARM_WRITE), expected.sel(arm=ARM_WRITE))


def test_what_is_removed_is_held_against_the_same_depths(study: mcr.experiments.AblationStudy) -> None:
    row: Any = study.effects().set_index(["arm", "versus", "outcome"]).loc[(ARM_WRITE, "baseline")]
    depths = study.data.attrs["compressed_depths"]
    rest = study.data.normalized_entropy_without_sink.isel(arm=0, dose=0).sel(depth=depths).mean()
    assert row.loc["normalized_entropy"].reference == pytest.approx(float(rest))
    assert np.isnan(row.loc["normalized_entropy_without_sink"].removed)
    kappa = study.outcomes().sink_compression.sel(arm=ARM_WRITE).mean("prompt").values
    assert row.loc["sink_compression"].removed == pytest.approx(1 - kappa[-1] / kappa[0])


def test_without_a_control_nothing_is_supported(study: mcr.experiments.AblationStudy) -> None:
    attributes = study.data.attrs | {"equal_norm_controls": []}
    data = study.data.sel(arm=[ARM_WRITE]).drop_vars("random_direction")
    claims = mcr.experiments.AblationStudy(data.assign_attrs(attributes)).claims()
    assert not {"supported", "in part"} & {claim.verdict for claim in claims}
    assert "there is no control of equal norm" in claims[1].why


def test_clusters_are_the_units(study: mcr.experiments.AblationStudy) -> None:
    data = study.data.assign_attrs(shared_tokens=0.8)
    alone = mcr.experiments.AblationStudy(data)
    (note,) = alone.caveats()
    assert "80%" in note and "cluster=" in note
    pairs = alone.by_cluster(np.repeat(range(6), 2))
    assert pairs.caveats() == []
    assert pairs.effects().attrs["smallest_p"] == 2**-5
    assert "6 prompts or clusters can give no p below 0.031" in pairs.claims()[1].why
    with pytest.raises(InputError, match="give one label for each of 12 prompts"):
        alone.by_cluster([1, 2])
    with pytest.raises(InputError, match=r"cluster 'x': prompts have .*n_tokens"):
        alone.by_cluster("x")


def test_blocking_the_sink_leaves_the_norm_and_the_valley(study: mcr.experiments.AblationStudy) -> None:
    effects: Any = study.effects().set_index(["arm", "versus", "outcome"])
    blocked: Any = effects.loc["blocked sink"].loc["baseline"]
    assert blocked.loc["sink_rate"].removed > 0.9
    assert abs(blocked.loc["normalized_entropy"].removed) < 0.05
    assert abs(blocked.loc["norm_ratio"].removed) < 0.05


def test_the_dose_is_graded_and_zero_is_the_baseline(study: mcr.experiments.AblationStudy) -> None:
    norm = study.outcomes().norm_ratio.mean("prompt")
    assert np.ptp(norm.sel(dose=0).values) == 0
    whole, half, gone = norm.sel(arm=ARM_WRITE).values
    assert half == pytest.approx(whole / 2, rel=0.05)
    assert gone < 3
    curves = study.dose_curves()
    ends = curves.norm_ratio.dropna("dose")  # the random direction has the largest dose and no other
    assert ends.dose.values.tolist() == [0, 1]
    assert (ends.sel(estimate="low") <= ends.sel(estimate="high")).all()


def test_several_stages_are_removed_singly_and_together(tmp_path: Path) -> None:
    model = mcr.load_model(planted_folder(tmp_path, emergence=(1, 3), dissipation=()))
    study = mcr.ablation_study(model, ragged(6), doses=[1], arms=["write"], progress=False)
    assert study.data.arm.values.tolist() == ["write, layer 1", "write, layer 3", "write, layers 1, 3"]
    removed: Any = study.effects().set_index(["arm", "outcome"])["removed"]
    assert 0.2 < removed["write, layer 3", "norm_ratio"] < 0.8
    assert removed["write, layers 1, 3", "norm_ratio"] > 0.9


def test_a_model_without_a_massive_token_is_told_how_little_there_is(llama: Any) -> None:
    study = mcr.ablation_study(llama, ragged(3), doses=[1], arms=["write", "other token"], progress=False)
    (note,) = study.caveats()
    assert re.match(r"no layer makes the sink token massive: kappa is at most -?0\.\d\d", note)
    assert f"the arms are at layer {next(iter(study.data.attrs['writes']))}," in note
    assert {claim.verdict for claim in study.claims()} == {"cannot be said"}
    assert note in repr(study)


def test_it_is_saved_read_back_and_shown(study: mcr.experiments.AblationStudy, tmp_path: Path) -> None:
    again = mcr.experiments.AblationStudy.load(study.save(tmp_path / "study.nc"))
    xr.testing.assert_identical(again.data, study.data)
    assert "Do the sinks go with norm and direction together? supported" in repr(again)
    assert ARM_WRITE in again._repr_html_()
    figure: Any = mcr.viz.dose_response(again)
    assert {trace.name for trace in figure.data if trace.name} == set(study.kinds())


def test_under_a_true_null_p_is_no_smaller_than_it_should_be(study: mcr.experiments.AblationStudy) -> None:
    """Arms and baseline drawn from one distribution: the study's own p-values over many such data sets."""
    rng = np.random.default_rng(7)
    sets, p_values = 120, []
    for _ in range(sets):
        data = study.data.sel(arm=[ARM_WRITE]).copy()
        for name in ("norm_ratio", "lens_loss"):
            noise = rng.standard_t(3, size=(data.sizes["arm"], data.sizes["dose"], data.sizes["prompt"], 1))
            noise[:] = np.where(np.arange(data.sizes["dose"])[:, None, None] == 0, noise[:1, :1], noise)
            shape = ("arm", "dose", "prompt", "depth")
            data[name] = (shape, np.broadcast_to(5 + noise, (*noise.shape[:3], data.sizes["depth"])))
        effects = mcr.experiments.AblationStudy(data).effects()
        row = effects[(effects.arm == ARM_WRITE) & (effects.versus == "baseline")].set_index("outcome")
        p_values.append(row.p[["norm_ratio", "loss"]].to_numpy())
    found = np.stack(p_values)
    for level in (0.05, 0.2, 0.5):
        error = np.sqrt(level * (1 - level) / sets)
        assert ((found <= level).mean(0) <= level + 3 * error).all(), level


def test_blocking_alone_says_that_nothing_changed_the_sink(study: mcr.experiments.AblationStudy) -> None:
    data = study.data.sel(arm=["blocked sink"])
    for claim in mcr.experiments.AblationStudy(data.assign_attrs(study.data.attrs)).claims():
        assert claim.verdict == "cannot be said" and "no treatment of this study changed" in claim.why


def test_few_prompts_are_said_to_be_too_few(study: mcr.experiments.AblationStudy) -> None:
    """Four prompts can give no p below 1/8: the sinks go, but nothing can be said, of the loss neither."""
    few = mcr.experiments.AblationStudy(study.data.isel(prompt=slice(4)))
    for claim in few.claims():
        assert claim.verdict == "cannot be said"
        assert "norm" not in claim.question[:5] or "4 prompts" in claim.why
    assert "4 prompts or clusters can give no p below 0.12" in few.claims()[1].why


def test_nothing_is_measured_before_the_arguments_are_checked(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: Any, **__: Any) -> None:
        raise AssertionError("the baseline was measured")

    monkeypatch.setattr("mcr_lens.experiments.ablation.run.profile", measured)
    wrong: list[dict[str, Any]] = [{"arms": ["magic"]}, {"layers": [9]}, {"max_ratio": -1}]
    for options in wrong:
        with pytest.raises(InputError):
            mcr.ablation_study(llama, ragged(2), progress=False, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"doses": [0]}, "at least one above 0"),
        ({"doses": [2]}, "from 0 to 1"),
        ({"arms": ["magic"]}, "use some of write"),
        ({"doses": [float("nan")]}, "from 0 to 1"),
        ({"doses": 1}, "use a list of numbers"),
        ({"layers": [1, 1]}, r"0\.\.2.*each once"),
        ({"layers": [2], "arms": ["block"]}, "no layer after 2"),
        ({"arms": ["random direction"]}, "name a treatment"),
        ({"cluster": [1]}, "one label for each of 2 prompts"),
        ({"layers": [9]}, r"0\.\.2"),
        ({"layers": []}, r"0\.\.2"),
        ({"layers": "all"}, "use 'emergence'"),
        ({"max_ratio": 0}, "above 0"),
        ({"seed": -1}, "whole number from 0"),
    ],
)
def test_bad_input_is_told_in_one_line(llama: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        mcr.ablation_study(llama, ragged(2), **{"layers": [1], "progress": False, **options})
    assert "\n" not in str(caught.value)
