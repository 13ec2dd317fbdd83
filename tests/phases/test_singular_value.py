"""What sigma_1 is made of, against matrices of which it is known and against NumPy's own."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.phases import first_singular_value
from mcr_lens.phases.singular_value import PARTS


def measured(*matrices: np.ndarray) -> xr.Dataset:
    """A prompt a matrix, one depth; the three variables from their definitions."""
    rows = []
    for matrix in matrices:
        sink, rest = matrix[0], matrix[1:]
        mass, other = (sink**2).sum(), (rest**2).sum()
        with np.errstate(invalid="ignore", divide="ignore"):
            alignment = ((rest @ sink) ** 2).sum() / mass / other
        anisotropy = np.linalg.svd(matrix, compute_uv=False)[0] ** 2 / (mass + other)
        with np.errstate(divide="ignore"):
            rows.append([mass / other, alignment, anisotropy])
    values = np.array(rows, dtype=float)[:, :, None]
    names = ("norm_mass_ratio", "alignment", "anisotropy")
    variables = {name: (("prompt", "depth"), values[:, i]) for i, name in enumerate(names)}
    return xr.Dataset(variables, coords={"depth": [0]})


def shares(table: object) -> list[float]:
    return [float(table.loc[0, (part, "mean")]) for part in PARTS]  # type: ignore[attr-defined]


def test_known_matrices() -> None:
    """sigma_1^2 = 9 + 4 where all rows are parallel; 9, or 16, where none is."""
    parallel = np.array([[3.0, 0.0], [2.0, 0.0]])
    apart = np.array([[3.0, 0.0], [0.0, 2.0]])
    elsewhere = np.array([[3.0, 0.0], [0.0, 4.0]])
    assert shares(first_singular_value(measured(parallel))) == pytest.approx([9 / 13, 4 / 13, 0])
    assert shares(first_singular_value(measured(apart))) == pytest.approx([1, 0, 0])
    assert shares(first_singular_value(measured(elsewhere))) == pytest.approx([9 / 16, 0, 7 / 16])


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(1, 6), st.floats(-3, 3))
def test_parts_add_up_to_the_first_singular_value(seed: int, rows: int, width: int, size: float) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, width))
    matrix[0] *= 10**size
    found = first_singular_value(measured(matrix), n_resamples=1)
    sink = found.loc[0, ("sink token", "mean")]
    largest = np.linalg.svd(matrix, compute_uv=False)[0] ** 2
    assert sink == pytest.approx((matrix[0] ** 2).sum() / largest, rel=1e-6)
    direction = matrix[0] / np.linalg.norm(matrix[0])
    aligned = ((matrix[1:] @ direction) ** 2).sum() / largest
    assert found.loc[0, ("aligned rest", "mean")] == pytest.approx(aligned, rel=1e-6, abs=1e-12)
    assert sum(shares(found)) == pytest.approx(1)
    assert min(shares(found)) >= 0


def test_of_a_measured_profile(llama_profile: mcr.Profile) -> None:
    table = llama_profile.first_singular_value()
    data = llama_profile.data
    means = table.xs("mean", axis=1, level=1)
    np.testing.assert_allclose(means.sum(axis=1), 1)
    assert (means >= 0).all(axis=None)
    # The theorem's bound on the anisotropy, over the anisotropy, is the first two parts.
    expected = (data.anisotropy_bound / data.anisotropy).mean("prompt")
    np.testing.assert_allclose(means["sink token"] + means["aligned rest"], expected, rtol=1e-5)
    assert table.index.tolist() == data.depth.values.tolist()
    assert table.attrs["n_prompts"] == 3
    for part in PARTS:
        assert (table[part].low <= table[part]["mean"]).all() and (
            table[part]["mean"] <= table[part].high
        ).all()


def test_nothing_but_the_sink_token_and_no_sink_token() -> None:
    with np.errstate(invalid="ignore"):
        alone = measured(np.array([[3.0, 1.0], [0.0, 0.0]]))
        none = measured(np.array([[0.0, 0.0], [3.0, 1.0]]))
    assert shares(first_singular_value(alone)) == pytest.approx([1, 0, 0])
    assert np.isnan(shares(first_singular_value(none))).all()
    both = xr.concat([alone, none], "prompt")
    table = first_singular_value(both)
    assert shares(table) == pytest.approx([1, 0, 0])
    assert table.attrs["n_prompts"] == 1


def test_one_prompt_has_no_interval() -> None:
    table = first_singular_value(measured(np.array([[3.0, 0.0], [2.0, 1.0]])))
    assert table.loc[0, ("sink token", ["low", "high"])].isna().all()


def test_intervals_cover_the_population() -> None:
    """Shares of 20 prompts, drawn from 5,000 whose mean is the truth."""
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(5000, 5, 3))
    matrices[:, 0] *= rng.uniform(1, 4, (5000, 1))
    all_of_them = measured(*matrices)
    truth = np.array(shares(first_singular_value(all_of_them, n_resamples=1)))
    covered = []
    for seed in range(200):
        drawn = np.random.default_rng(seed).integers(5000, size=20)
        row = first_singular_value(all_of_them.isel(prompt=drawn), n_resamples=299).loc[0]
        covered.append((row[:, "low"].to_numpy() <= truth) & (truth <= row[:, "high"].to_numpy()))
    assert (np.mean(covered, axis=0) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 200)).all()


def test_bad_input() -> None:
    data = measured(np.eye(2))
    with pytest.raises(mcr.InputError, match="raw estimator"):
        first_singular_value(data.assign_attrs(estimator={"center": True}))
    with pytest.raises(mcr.InputError, match="confidence 1: use a number between"):
        first_singular_value(data, confidence=1)
    with pytest.raises(mcr.InputError, match="no variable 'alignment' in this profile"):
        made_profile([1, 2]).first_singular_value()
