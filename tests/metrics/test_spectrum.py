"""Both spectra stay exact at any scale of the sink token; estimators equal the oracle."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from matrices import residual_streams
from oracle import estimator_oracle

from mcr_lens import metrics
from mcr_lens.errors import InputError
from mcr_lens.metrics import Estimator


def _entropy_of(x: np.ndarray) -> float:
    values = np.linalg.svd(x, compute_uv=False) ** 2
    share = values / values.sum()
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


@pytest.mark.parametrize("factor", [1.0, 1e3, 1e6])
@pytest.mark.parametrize(("tokens", "width"), [(20, 64), (64, 20), (7, 7), (2, 5)])
@pytest.mark.parametrize("sink", [0, 1])
def test_both_spectra_are_exact_at_any_scale(tokens: int, width: int, factor: float, sink: int) -> None:
    x = np.random.default_rng(tokens).standard_normal((tokens, width))
    x[sink] *= factor
    found = metrics.spectra(torch.from_numpy(x)[None], sink_position=sink)
    rest = np.delete(x, sink, axis=0)
    assert float(metrics.matrix_entropy(found.full)[0]) == pytest.approx(_entropy_of(x), abs=1e-12)
    assert float(metrics.matrix_entropy(found.without_sink)[0]) == pytest.approx(_entropy_of(rest), abs=1e-12)
    singular = np.linalg.svd(x, compute_uv=False) ** 2
    expected = singular[0] / singular[1:].sum()
    assert float(metrics.dominance(found.full)[0]) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(residual_streams())
def test_entropies_equal_those_of_the_singular_values(stream: tuple[np.ndarray, int]) -> None:
    x, sink = stream
    found = metrics.spectra(torch.from_numpy(x)[None], sink_position=sink)
    if np.any(x):
        assert float(metrics.matrix_entropy(found.full)[0]) == pytest.approx(_entropy_of(x), abs=1e-7)
    rest = np.delete(x, sink, axis=0)
    if np.any(rest):
        without = float(metrics.matrix_entropy(found.without_sink)[0])
        assert without == pytest.approx(_entropy_of(rest), abs=1e-7)


@pytest.mark.parametrize(
    "estimator",
    [
        Estimator(center=True),
        Estimator(unit_rows=True),
        Estimator(center=True, unit_rows=True),
        Estimator(alpha=2.0),
        Estimator(alpha=0.5),
        Estimator(preset="layer-by-layer"),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(9, 16), (16, 9)])
def test_estimators_equal_the_oracle(estimator: Estimator, shape: tuple[int, int]) -> None:
    x = np.random.default_rng(3).standard_normal(shape) + 0.5
    found = metrics.spectra(torch.from_numpy(x)[None], estimator=estimator)
    entropy = metrics.matrix_entropy(found.full, estimator.alpha)
    normalized = metrics.normalized_entropy(entropy, torch.tensor([shape[0]]), shape[1])
    expected = estimator_oracle(x, **estimator.as_dict())
    assert float(entropy[0]) == pytest.approx(expected["matrix_entropy"], abs=1e-9)
    assert float(normalized[0]) == pytest.approx(expected["normalized_entropy"], abs=1e-9)


def test_lengths_hide_the_padding() -> None:
    x = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    padded = metrics.spectra(x, torch.tensor([10, 4]))
    alone = metrics.spectra(x[1:, :4])
    torch.testing.assert_close(padded.full[1, :4], alone.full[0])
    assert not padded.full[1, 4:].any()


def test_a_broken_residual_stream_is_nan_not_a_number() -> None:
    x = torch.randn(1, 5, 8)
    x[0, 3, 2] = torch.inf
    found = metrics.spectra(x)
    assert metrics.matrix_entropy(found.full).isnan().all()
    x[0, 3, 2] = torch.nan
    assert metrics.matrix_entropy(metrics.spectra(x[:, :, :4]).without_sink).isnan().all()


def test_limits_of_the_entropy() -> None:
    assert float(metrics.matrix_entropy(torch.ones(7))) == pytest.approx(np.log(7))
    assert float(metrics.matrix_entropy(torch.tensor([5.0, 0.0]))) == 0.0
    assert float(metrics.matrix_entropy(torch.tensor([3.0, 1.0]), float("inf"))) == pytest.approx(
        np.log(4 / 3)
    )
    assert metrics.matrix_entropy(torch.zeros(3)).isnan()
    assert metrics.normalized_entropy(torch.tensor(0.0), 1, 8).isnan()


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(InputError, match="preset"):
        Estimator(preset="other")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="alpha"):
        Estimator(alpha=0.0)
    with pytest.raises(InputError, match=r"sink position 4 must lie in 0\.\.2"):
        metrics.spectra(torch.zeros(1, 3, 2), sink_position=4)
    with pytest.raises(InputError, match=r"lengths \[5\]"):
        metrics.spectra(torch.zeros(1, 3, 2), torch.tensor([5]))


@pytest.mark.parametrize("shape", [(5, 32), (32, 5)])
def test_a_matrix_of_rank_one_has_no_tail(shape: tuple[int, int]) -> None:
    x = torch.ones(1, *shape, dtype=torch.float64)
    found = metrics.spectra(x)
    assert metrics.dominance(found.full).isinf().all()
    assert float(metrics.matrix_entropy(found.full)) == 0.0
    assert metrics.dominance_bound(metrics.masses(x)).isinf().all()


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_a_short_prompt_is_the_same_beside_a_long_one(alpha: float) -> None:
    """The long prompt's Gram has room for eigenvalues that the short one cannot have."""
    x = torch.randn(2, 100, 32, generator=torch.Generator().manual_seed(0))
    estimator = Estimator(alpha=alpha)
    both, alone = (
        metrics.ResidualState(lengths, 0, estimator)
        for lengths in (torch.tensor([100, 5]), torch.tensor([5]))
    )
    both.update(x)
    alone.update(x[1:, :5])
    together, by_itself = both.result(), alone.result()
    for name, value in by_itself.items():
        torch.testing.assert_close(together[name][1:].double(), value.double(), msg=name)
    assert (by_itself["normalized_entropy"] <= 1 + 1e-12).all()
