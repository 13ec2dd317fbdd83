"""The theorem holds on everything hypothesis can think of, and its pieces equal the oracle."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from matrices import inverse, residual_streams
from oracle import bounds_oracle

from mcr_lens import metrics

RELATIVE = 1e-9


def _all(x: np.ndarray, sink: int) -> dict[str, float]:
    residual = torch.from_numpy(x)[None]
    mass = metrics.masses(residual, sink_position=sink)
    eigenvalues = metrics.spectra(residual, sink_position=sink).full
    values = {
        "anisotropy": metrics.anisotropy(eigenvalues),
        "dominance": metrics.dominance(eigenvalues),
        "matrix_entropy": metrics.matrix_entropy(eigenvalues),
        "sigma_1_squared": eigenvalues[:, 0],
        "norm_mass_ratio": metrics.norm_mass_ratio(mass),
        "alignment": metrics.alignment(mass),
        "anisotropy_bound": metrics.anisotropy_bound(mass),
        "dominance_bound": metrics.dominance_bound(mass),
        "entropy_bound": metrics.entropy_bound(mass, len(x), x.shape[1]),
        "mass_along": mass.sink + mass.rest_along,
    }
    return {name: float(value[0]) for name, value in values.items()}


@settings(max_examples=1200, deadline=None)
@given(residual_streams())
def test_no_residual_stream_breaks_a_bound(stream: tuple[np.ndarray, int]) -> None:
    x, sink = stream
    found = _all(x, sink)
    assert found["sigma_1_squared"] >= found["mass_along"] * (1 - RELATIVE)
    assert found["anisotropy"] >= found["anisotropy_bound"] * (1 - RELATIVE)
    assert found["matrix_entropy"] <= found["entropy_bound"] + 1e-9
    assert inverse(found["dominance"]) <= inverse(found["dominance_bound"]) * (1 + 1e-6) + 1e-13


@settings(max_examples=300, deadline=None)
@given(residual_streams())
def test_pieces_equal_the_oracle(stream: tuple[np.ndarray, int]) -> None:
    x, sink = stream
    found, expected = _all(x, sink), bounds_oracle(x, sink)
    for name in ("norm_mass_ratio", "alignment", "anisotropy_bound", "entropy_bound"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-9, err_msg=name)
    tails = [inverse(values["dominance_bound"]) for values in (found, expected)]
    np.testing.assert_allclose(*tails, rtol=1e-6, atol=1e-13)


def test_bounds_are_met_by_two_orthogonal_directions() -> None:
    found = _all(np.array([[3.0, 0.0], [0.0, 1.0]]), 0)
    assert found["anisotropy_bound"] == pytest.approx(0.9)
    assert found["anisotropy"] == pytest.approx(0.9)
    assert found["dominance_bound"] == pytest.approx(9.0)
    assert found["entropy_bound"] == pytest.approx(found["matrix_entropy"])


def test_a_zero_sink_bounds_nothing_and_a_lonely_one_everything() -> None:
    nothing = _all(np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 0.0]]), 0)
    assert np.isnan(nothing["alignment"])
    assert nothing["entropy_bound"] == pytest.approx(np.log(2))
    everything = _all(np.array([[1.0, 2.0], [0.0, 0.0]]), 0)
    assert everything["norm_mass_ratio"] == np.inf
    assert everything["dominance_bound"] == np.inf
    assert everything["entropy_bound"] == pytest.approx(0.0, abs=1e-12)


def test_the_tail_survives_alignment_to_the_last_digits() -> None:
    """1 - alpha taken by subtraction would lose everything below 1e-16."""
    x = np.array([[1.0, 0.0], [1.0, 1e-12]])
    mass = metrics.masses(torch.from_numpy(x)[None])
    assert float(mass.rest_across[0]) == pytest.approx(1e-24, rel=1e-9)
