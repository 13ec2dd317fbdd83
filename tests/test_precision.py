"""Half precision moves a profile by no more than it must, and what is concluded from it not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from backends import needs_hooked_transformer

import mcr_lens as mcr

# Relative to the largest value of a variable: a few roundings of float32, and of 11 and 8 significant bits.
LARGEST = {"float32": 1e-5, "float16": 0.02, "bfloat16": 0.1}
TIED = {"top_column_position", "top_column_attention", "col_sum_argmax"}


def measured(dtype: str) -> mcr.Profile:
    model = mcr.load_model("tiny", dtype=getattr(torch, dtype))
    return mcr.profile(model, mcr.load_prompts(mcr.prompts.word_problems(4), model), progress=False)


@pytest.fixture(scope="module")
def reference(bundled_model: Any) -> mcr.Profile:
    return measured("float64")


@pytest.mark.parametrize("dtype", LARGEST)
def test_every_variable_is_near_that_of_float64(reference: mcr.Profile, dtype: str) -> None:
    profile = measured(dtype)
    assert set(profile.data.data_vars) == set(reference.data.data_vars)
    assert profile.data.attrs["dtype"] == dtype
    for name in sorted(set(map(str, profile.data.data_vars)) - TIED):
        expected = reference[name].values.astype(float)
        scale = max(1.0, float(np.nanmax(np.abs(expected))))
        found = profile[name].values.astype(float)
        np.testing.assert_allclose(found, expected, rtol=0, atol=LARGEST[dtype] * scale, err_msg=name)
    assert profile.phase_line() == reference.phase_line()
    assert profile.emergence_layers() == reference.emergence_layers()
    assert (profile.data.not_finite_depth == -1).all()


@needs_hooked_transformer
def test_a_float64_model_is_reduced_in_float64() -> None:
    """Rows of a pattern sum to one as float64 has it: nothing was rounded to float32 on the way."""
    model = mcr.load_model("tiny", dtype=torch.float64, backend="hooked_transformer")
    prompts = mcr.load_prompts(mcr.prompts.word_problems(2), model)
    mass = mcr.profile(model, prompts, progress=False)["learned_sink_mass"]
    assert float(np.abs(mass).max()) < 1e-14
