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

ARM_WRITE = "write, layer 1"


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
            row = effects.loc[(arm, "baseline", outcome)]
            assert row.removed > 0.9, (arm, outcome)
            assert row.p_adjusted < 0.05
    assert abs(effects.loc[("norm clamp", "baseline", "sink_rate")].removed) < 0.1
    verdicts = [claim.verdict for claim in study.claims()]
    assert verdicts[:3] == ["supported", "in part", "supported"]


def test_controls_show_no_effect(study: mcr.experiments.AblationStudy) -> None:
    effects: Any = study.effects()
    controls = effects[(effects.arm.str.startswith("control")) & (effects.versus == "baseline")]
    assert len(controls) == 12
    planted = controls[controls.outcome.isin(["norm_ratio", "normalized_entropy", "sink_rate"])]
    assert (planted.removed.abs() < 0.02).all()


def test_the_control_layer_could_have_shown_an_effect(study: mcr.experiments.AblationStudy) -> None:
    """What a layer behind the compressed depths writes reaches no outcome: it would be no control."""
    found = re.search(r"of layer (\d+) removed at the sink", study.data.attrs["arms"]["control: other layer"])
    assert found is not None
    assert int(found[1]) in set(range(max(study.data.attrs["compressed_depths"]))) - {1}


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
    assert (curves.norm_ratio.sel(estimate="low") <= curves.norm_ratio.sel(estimate="high")).all()


def test_several_stages_are_removed_singly_and_together(tmp_path: Path) -> None:
    model = mcr.load_model(planted_folder(tmp_path, emergence=(1, 3), dissipation=()))
    study = mcr.ablation_study(model, ragged(6), doses=[1], arms=["write"], progress=False)
    assert study.data.arm.values.tolist() == ["write, layer 1", "write, layer 3", "write, layers 1, 3"]
    removed: Any = study.effects().set_index(["arm", "outcome"])["removed"]
    assert 0.2 < removed["write, layer 3", "norm_ratio"] < 0.8
    assert removed["write, layers 1, 3", "norm_ratio"] > 0.9


def test_a_model_without_a_massive_token_has_nothing_to_ablate(llama: Any) -> None:
    with pytest.raises(InputError, match=r"nothing to ablate; name layers="):
        mcr.ablation_study(llama, ragged(3), progress=False)
    study = mcr.ablation_study(llama, ragged(3), layers=[1], doses=[1], arms=["write"], progress=False)
    assert study.claims()[0].verdict == "cannot be said"


def test_it_is_saved_read_back_and_shown(study: mcr.experiments.AblationStudy, tmp_path: Path) -> None:
    again = mcr.experiments.AblationStudy.load(study.save(tmp_path / "study.nc"))
    xr.testing.assert_identical(again.data, study.data)
    assert "Does the valley follow the norm? supported" in repr(again)
    assert ARM_WRITE in again._repr_html_()
    figure: Any = mcr.viz.dose_response(again)
    assert {trace.name for trace in figure.data if trace.name} == set(study.data.arm.values)


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


def test_layers_of_ones_own_are_held_against_the_state_before_emergence(tmp_path: Path) -> None:
    """The valley is there before the layer that was named: its own reference would call it none."""
    model = mcr.load_model(planted_folder(tmp_path, emergence=(1,), dissipation=(4,)))
    own = mcr.ablation_study(
        model, ragged(12), layers=[3], doses=[1], arms=["write", "clamp"], progress=False
    )
    assert own.data.attrs["before_depth"] == 1
    assert "no valley" not in own.claims()[0].why
    row: Any = own.effects().set_index(["arm", "outcome"]).loc[("write, layer 3", "normalized_entropy")]
    assert row.reference > 0.5 and abs(row.removed) < 0.1


def test_blocking_alone_says_that_nothing_was_meant_to_end_the_norm(
    study: mcr.experiments.AblationStudy,
) -> None:
    data = study.data.sel(arm=["blocked sink"])
    claim = mcr.experiments.AblationStudy(data.assign_attrs(study.data.attrs)).claims()[0]
    assert (claim.verdict, claim.why) == (
        "cannot be said", "no arm of this study ended the norm, or none was meant to",
    )  # fmt: skip


def test_few_prompts_are_said_to_be_too_few(study: mcr.experiments.AblationStudy) -> None:
    """Five prompts can give no p below 1/16: the norm goes, but a claim must not say that it stays."""
    few = mcr.experiments.AblationStudy(study.data.isel(prompt=slice(5)))
    claim = few.claims()[0]
    assert claim.verdict == "cannot be said"
    assert "3 of 3 treatments ended half of the norm, but not beyond chance" in claim.why


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
        ({"layers": [0, 1, 2], "arms": ["other layer"]}, "no layer is left"),
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
