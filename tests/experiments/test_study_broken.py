"""Comparisons of a study are of the same prompts on both sides, whatever is broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from fuzz.result_files import study_data

import mcr_lens as mcr
from mcr_lens.experiments.ablation.study import AblationStudy


@pytest.fixture
def data() -> xr.Dataset:
    """An arm that changes nothing; the baseline of the first prompt, which has the most of it, is broken."""
    data = study_data()
    ratio = data["norm_ratio"].values
    ratio[...] = 1.0
    ratio[..., 1:] = np.array([100.0, 10.0, 10.0])[:, None]
    ratio[:, 0, 0] = np.nan
    data["norm_ratio"] = (data["norm_ratio"].dims, ratio)
    return data


def test_what_is_compared_is_of_the_same_prompts(data: xr.Dataset) -> None:
    study = AblationStudy(data)
    rows = study.effects().query("outcome == 'norm_ratio'")
    assert (rows.effect == 0).all() and (rows.removed == 0).all()
    np.testing.assert_allclose(rows.there, rows.against)
    np.testing.assert_allclose(study.outcome_table().norm_ratio, 10.0)


def test_an_outcome_that_no_prompt_has_is_nan_and_the_rest_is_there(data: xr.Dataset) -> None:
    data["lens_loss"] = data.lens_loss.where(data.depth < 2)
    study = AblationStudy(data)
    effects = study.effects()
    # Nor has a file of this kind what kappa is made of.
    of_loss = effects.outcome.isin(["loss", "sink_compression"]).to_numpy()
    for column in ("effect", "there", "p"):
        values = effects[column].to_numpy(float)
        assert np.isnan(values[of_loss]).all() and not np.isnan(values[~of_loss]).any()
    assert "Does losing the edit" in repr(study) and study.headline in study._repr_html_()


def test_a_study_of_an_earlier_version_opens_and_claims_nothing() -> None:
    """Its control was not of equal norm, and what its arms changed was not measured."""
    study = mcr.load(Path(__file__).parents[1] / "results" / "study_schema_1.nc")
    assert isinstance(study, AblationStudy)
    assert {claim.verdict for claim in study.claims()} == {"cannot be said"}
    assert set(study.verdicts().changed) == {"not measured"}
    assert study.effects().versus.unique().tolist() == ["baseline", "control: other token"]
    assert study.outcome_table().norm_ratio.notna().all()
