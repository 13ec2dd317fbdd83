"""Comparisons of a study are of the same prompts on both sides, whatever is broken."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from fuzz.result_files import study_data

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
    of_loss = (effects.outcome == "loss").to_numpy()
    for column in ("effect", "there", "p", "p_adjusted"):
        values = effects[column].to_numpy(float)
        assert np.isnan(values[of_loss]).all() and not np.isnan(values[~of_loss]).any()
    assert "Does it cost loss?" in repr(study) and study.headline in study._repr_html_()
