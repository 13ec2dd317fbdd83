"""Norms, activations and writes of small matrices worked out by hand, and against NumPy."""

import numpy as np
import pytest
import torch

from mcr_lens import metrics
from mcr_lens.metrics.residual import median_of_last


def test_norms_by_hand() -> None:
    x = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [0.0, 2.0], [9.0, 9.0]]])
    lengths = torch.tensor([3])
    assert float(metrics.sink_norm(x)) == 5.0
    assert float(metrics.rest_norm(x, lengths)) == 1.5
    assert float(metrics.norm_ratio(x, lengths)) == pytest.approx(10 / 3)
    assert float(metrics.norm_ratio(x, lengths, sink_position=2)) == pytest.approx(2 / 3)


def test_a_lonely_token_has_no_rest() -> None:
    assert metrics.rest_norm(torch.ones(1, 1, 4)).isnan().all()


@pytest.mark.parametrize("shape", [(1, 1), (4, 5), (5, 4), (31, 64)])
def test_medians_are_those_of_numpy(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    np.testing.assert_allclose(median_of_last(torch.from_numpy(x)), np.median(x, axis=-1))
    expected = np.median(np.median(np.abs(x), axis=-1))
    np.testing.assert_allclose(metrics.median_activation(torch.from_numpy(x)[None]), [expected])


def test_top_activation_ignores_padding() -> None:
    x = torch.zeros(2, 3, 4)
    x[0, 1, 2], x[1, 0, 3], x[1, 2, 0] = -7.0, 2.0, 100.0
    found = metrics.top_activation(x, torch.tensor([3, 2]))
    assert found.value.tolist() == [7.0, 2.0]
    assert found.position.tolist() == [1, 0]
    assert found.dimension.tolist() == [2, 3]


def test_massive_needs_both_conditions() -> None:
    top, median = torch.tensor([101.0, 101.0, 99.0]), torch.tensor([0.1, 0.2, 0.01])
    assert metrics.is_massive(top, median).tolist() == [True, False, False]


def test_components_of_the_writes_add_up_to_the_norm() -> None:
    parts = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = parts.sum(0)
    along = sum(metrics.write_along(part, state) for part in parts)
    torch.testing.assert_close(along, state.norm(dim=-1))
    assert metrics.write_along(torch.ones(4), torch.zeros(4)).isnan()
