"""The figure of a training run."""

from typing import Any

import numpy as np
import pytest

import mcr_lens as mcr
from mcr_lens.errors import InputError


@pytest.fixture(scope="module")
def run(bundled_model: Any) -> mcr.Profile:
    prompts = mcr.load_prompts(mcr.prompts.word_problems(3), bundled_model)
    return mcr.experiments.profile_training("tiny", prompts, [0, 512, 20000], progress=False)


def test_every_cell_is_a_mean_of_the_run(run: mcr.Profile) -> None:
    figure: Any = mcr.viz.training(run)
    assert [panel.customdata.shape for panel in figure.data] == [(11, 3), (11, 3), (10, 3), (10, 3)]
    mean = run["norm_ratio"].mean("prompt").transpose("depth", "step").values
    np.testing.assert_allclose(figure.data[0].customdata, mean)
    np.testing.assert_allclose(10 ** figure.data[0].z, mean)
    assert list(figure.data[0].x) == ["0", "512", "20,000"]
    rate = run.sink_rate().mean("prompt").transpose("layer", "step").values
    np.testing.assert_allclose(figure.data[2].z, rate)


def test_a_profile_without_attention_or_steps(run: mcr.Profile) -> None:
    bare = mcr.Profile(run.data.drop_vars(["sink_score", "mixing_score"]))
    figure: Any = mcr.viz.training(bare)
    assert len(figure.data) == 2
    with pytest.raises(InputError, match="no steps"):
        mcr.viz.training(mcr.Profile(run.data.isel(step=0)))
