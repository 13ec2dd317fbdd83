"""Taken in by blocks, merged in any order, or whole: the same numbers; and those of the oracle."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import inverse, patterns, residual_streams
from oracle import attention_oracle, members, residual_oracle

from mcr_lens import metrics
from mcr_lens.errors import InputError
from mcr_lens.metrics import AttentionState, Estimator, ResidualState, ValueState


def _residual(x: np.ndarray, sink: int | tuple[int, ...], cuts: list[int]) -> dict[str, float]:
    state = ResidualState(torch.tensor([len(x)]), sink)
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(x)}), len(x)]
    for start, stop in pairwise(edges):
        state.update(torch.from_numpy(x)[None, start:stop], start)
    return {name: float(value[0]) for name, value in state.result().items()}


@settings(max_examples=200, deadline=None)
@given(residual_streams(), st.lists(st.integers(1, 23), max_size=4))
def test_residual_blocks_equal_the_whole(stream: tuple[np.ndarray, int], cuts: list[int]) -> None:
    x, sink = stream
    whole, blocks = _residual(x, sink, []), _residual(x, sink, cuts)
    for name, value in whole.items():
        if name in ("dominance", "dominance_bound"):
            np.testing.assert_allclose(inverse(blocks[name]), inverse(value), rtol=1e-6, atol=1e-13)
        else:
            np.testing.assert_allclose(blocks[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(("tokens", "width"), [(12, 16), (24, 8)])
@pytest.mark.parametrize("sink", [0, 5, (0, 5), (5, 1), (2, 11, 0)])
def test_residual_state_equals_the_oracle(tokens: int, width: int, sink: int | tuple[int, ...]) -> None:
    x = np.random.default_rng(1).standard_normal((tokens, width)).astype(np.float32)
    x[[*members(sink)]] *= 50
    found = _residual(x, sink, [3, 7])
    expected = residual_oracle(x.astype(np.float64), sink)
    assert set(found) <= set(expected)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("factor", [1.0, 1e3, 1e6])
@pytest.mark.parametrize(("tokens", "width"), [(20, 64), (64, 20)])
@pytest.mark.parametrize("sinks", [(0, 1), (0, 7), (9, 3, 0)])
def test_several_sinks_of_any_size_leave_the_others_exact(
    tokens: int, width: int, factor: float, sinks: tuple[int, ...]
) -> None:
    x = np.random.default_rng(tokens).standard_normal((tokens, width))
    rest = residual_oracle(np.delete(x, sinks, axis=0))
    x[[*sinks]] *= factor * np.linspace(1, 0.9, len(sinks))[:, None]
    expected = residual_oracle(x, sinks)
    for cuts in ([], [2, 5, 8]):
        found = _residual(x, sinks, cuts)
        for name in ("matrix_entropy", "entropy_without_sink", "anisotropy_without_sink", "entropy_bound"):
            assert found[name] == pytest.approx(expected[name], abs=1e-12 * max(1, factor)), name
        # Whatever the sinks are, the others' spectrum is theirs.
        assert found["entropy_without_sink"] == pytest.approx(rest["matrix_entropy"], abs=1e-12)
        assert found["anisotropy_without_sink"] == pytest.approx(rest["anisotropy"], abs=1e-12)


def test_positions_of_sinks_are_checked() -> None:
    for wrong in ((), (0, 0), (0, 1, 2, 3, 4), -1, (0, 1.5), "auto"):
        with pytest.raises(InputError, match="use one position from 0, or a list of up to 4 different ones"):
            ResidualState(torch.tensor([10]), wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"sink position 10 must lie in 0\.\.9"):
        AttentionState(torch.tensor([10]), (0, 10))


def test_merged_residual_states_equal_one() -> None:
    x = torch.randn(3, 30, 8, generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([30, 12, 20])
    whole = ResidualState(lengths, 4)
    whole.update(x)
    first, second = ResidualState(lengths, 4), ResidualState(lengths, 4)
    first.update(x[:, 10:], 10)
    second.update(x[:, :10], 0)
    merged = first.merge(second).result()
    for name, value in whole.result().items():
        torch.testing.assert_close(merged[name].double(), value.double(), msg=name)


def test_a_centring_estimator_refuses_blocks() -> None:
    state = ResidualState(torch.tensor([10]), 0, Estimator(preset="layer-by-layer"))
    with pytest.raises(InputError, match="needs the whole prompt"):
        state.update(torch.zeros(1, 4, 3), 0)
    with pytest.raises(InputError, match="no block with the sink"):
        ResidualState(torch.tensor([10])).result()


@settings(max_examples=200, deadline=None)
@given(patterns(), st.lists(st.integers(1, 11), max_size=3), st.booleans(), st.integers(0, 11))
def test_attention_blocks_equal_the_oracle(
    drawn: tuple[np.ndarray, int, int | None], cuts: list[int], drop_old_keys: bool, second: int
) -> None:
    pattern, first, window = drawn
    tokens = pattern.shape[-1]
    sink = (first, second) if second < tokens and second != first else (first,)
    states = []
    edges = [0, *sorted({cut for cut in cuts if cut < tokens}), tokens]
    for start, stop in pairwise(edges):
        state = AttentionState(torch.tensor([tokens]), sink, window)
        # A cache of a sliding-window layer keeps only the keys that the chunk may still see.
        first_key = max(0, start - window + 1) if window and drop_old_keys else 0
        block = torch.from_numpy(pattern)[None, :, start:stop, first_key:stop]
        state.update(block, start, first_key)
        states.append(state)
    merged = states[-1]
    for state in states[:-1]:
        merged = merged.merge(state)
    expected = attention_oracle(pattern.astype(np.float64), sink, window)
    for name, value in merged.result().items():
        found = value[0].numpy()
        if name == "col_sum_argmax":
            # Ties are broken by rounding: the column named must be a largest one.
            continue
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=2e-6, err_msg=name)


def test_functions_are_the_states() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 9, 9, generator=generator).masked_fill(
        torch.ones(9, 9).triu(1).bool(), -torch.inf
    )
    pattern, lengths = scores.softmax(-1), torch.tensor([9, 5])
    state = AttentionState(lengths, 1)
    state.update(pattern)
    result = state.result()
    assert torch.equal(metrics.sink_score(pattern, lengths, 1), result["sink_score"])
    assert torch.equal(metrics.sink_attention(pattern, lengths, 1), result["sink_attention"])
    assert torch.equal(metrics.visible_queries(pattern, lengths, 1), result["visible_queries"])
    assert metrics.visible_queries(pattern, lengths, 1).tolist() == [7, 3]
    assert torch.equal(metrics.col_sum_max(pattern, lengths), result["col_sum_max"])
    assert torch.equal(metrics.col_sum_argmax(pattern, lengths), result["col_sum_argmax"])
    assert torch.equal(metrics.col_sum_concentration(pattern, lengths), result["col_sum_concentration"])
    assert torch.equal(metrics.mixing_score(pattern, lengths), result["mixing_score"])
    assert torch.equal(metrics.mixing_entropy(pattern, lengths), result["mixing_entropy"])
    assert torch.equal(metrics.identity_score(pattern, lengths, 1), result["identity_score"])
    assert torch.equal(metrics.previous_token_score(pattern, lengths, 1), result["previous_token_score"])
    assert torch.equal(metrics.learned_sink_mass(pattern, lengths), result["learned_sink_mass"])


def test_variants_of_the_mixing_score() -> None:
    uniform = torch.tril(torch.ones(4, 4))
    uniform = (uniform / uniform.sum(-1, keepdim=True))[None, None]
    assert float(metrics.mixing_score(uniform)) == pytest.approx(1.0)
    assert float(metrics.mixing_score(uniform, include_first_row=True)) == pytest.approx(3 / 4)
    by_length = np.log([2, 3, 4]).sum() / 3 / np.log(4)
    assert float(metrics.mixing_score(uniform, normalizer="length")) == pytest.approx(by_length, rel=1e-6)
    assert float(metrics.mixing_score(torch.eye(4)[None, None])) == 0.0
    with pytest.raises(InputError, match="normalizer"):
        metrics.mixing_score(uniform, normalizer="other")  # type: ignore[arg-type]


def test_rows_of_zeros_are_left_out() -> None:
    pattern = torch.tensor([[0.0, 0, 0], [0.0, 1, 0], [0.0, 0.5, 0.5]])[None, None]
    assert float(metrics.sink_score(pattern, sink_position=1)) == pytest.approx(0.75)
    assert float(metrics.learned_sink_mass(pattern)) == 0.0


def test_sink_anywhere_is_never_below_a_sink_at_one_place() -> None:
    pattern = torch.rand(5, 8, 12, 12, generator=torch.Generator().manual_seed(0)).tril()
    pattern = pattern / pattern.sum(-1, keepdim=True)
    for threshold in (0.05, 0.1, 0.3):
        anywhere = metrics.col_sum_rate(metrics.col_sum_max(pattern), threshold)
        assert (anywhere >= metrics.sink_rate(metrics.sink_score(pattern), threshold)).all()


def test_the_threshold_itself_counts() -> None:
    scores = torch.tensor([[0.3, 0.29, 0.31, 0.0]], dtype=torch.float64)
    assert metrics.sink_rate(scores, 0.3).tolist() == [0.5]
    assert metrics.col_sum_rate(scores, 0.3).tolist() == [0.5]
    share = metrics.sink_versus_identity(torch.tensor([[0.6]]), torch.tensor([[0.2]]), as_share=True)
    assert share.item() == pytest.approx(0.75)


def test_values_by_blocks() -> None:
    values = torch.randn(2, 11, 3, 4, generator=torch.Generator().manual_seed(5))
    lengths = torch.tensor([11, 6])
    first, second = ValueState(lengths, 2), ValueState(lengths, 2)
    first.update(values[:, :4])
    second.update(values[:, 4:], 4)
    found = first.merge(second).result()
    torch.testing.assert_close(found, metrics.sink_value_ratio(values, lengths, 2))
    norms = values[1, :6].double().norm(dim=-1)
    torch.testing.assert_close(found[1], norms[2] / norms.mean(0))
