"""The oracle on hand-computed cases, and the planted models are what they claim to be."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, eager, tiny_folder
from hugging_face_oracle import model_oracle, record
from oracle import attention_oracle, bounds_oracle, residual_oracle
from planted import BOS, planted_folder, planted_hooked_transformer

TOKENS = [BOS, *range(3, 40)]


def uniform(tokens: int, window: int | None = None) -> np.ndarray:
    """A causal pattern that spreads evenly over the visible keys."""
    rows = np.arange(tokens)[:, None]
    keys = np.arange(tokens)[None]
    visible = (keys <= rows) & (rows - keys < (window or tokens))
    return visible / visible.sum(axis=1, keepdims=True)


def test_identity_has_full_entropy() -> None:
    found = residual_oracle(np.eye(5), 0)
    assert found["matrix_entropy"] == pytest.approx(math.log(5))
    assert found["normalized_entropy"] == pytest.approx(1.0)
    assert found["entropy_without_sink"] == pytest.approx(math.log(4))
    assert found["norm_ratio"] == pytest.approx(1.0)
    assert found["anisotropy"] == pytest.approx(0.2)
    assert found["dominance"] == pytest.approx(0.25)
    assert residual_oracle(np.eye(5), 0, alpha=2.0)["matrix_entropy"] == pytest.approx(math.log(5))


def test_rank_one_has_no_entropy() -> None:
    states = np.outer([1.0, 2.0, 3.0], [1.0, -1.0])
    assert residual_oracle(states)["matrix_entropy"] == pytest.approx(0.0, abs=1e-12)
    bounds = bounds_oracle(states)
    assert bounds["norm_mass_ratio"] == pytest.approx(1 / 13)
    assert bounds["alignment"] == pytest.approx(1.0)
    assert bounds["entropy_bound"] == pytest.approx(0.0, abs=1e-12)


def test_orthogonal_rows_make_the_bounds_exact() -> None:
    states = np.diag([3.0, 1.0, 1.0])
    found, bounds = residual_oracle(states), bounds_oracle(states)
    for name in ("anisotropy", "dominance"):
        assert found[name] == pytest.approx(bounds[f"{name}_bound"])
    assert found["matrix_entropy"] == pytest.approx(bounds["entropy_bound"])


def test_degenerate_inputs() -> None:
    zero_sink = bounds_oracle(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert zero_sink["entropy_bound"] == pytest.approx(math.log(2))
    assert math.isnan(zero_sink["alignment"])
    zero_rest = bounds_oracle(np.array([[2.0, 0.0], [0.0, 0.0]]))
    assert zero_rest["norm_mass_ratio"] == math.inf == zero_rest["dominance_bound"]
    assert math.isnan(residual_oracle(np.zeros((3, 2)))["matrix_entropy"])


def test_the_other_estimator_by_hand() -> None:
    states = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    found = residual_oracle(states, preset="layer-by-layer")
    assert found["matrix_entropy"] == pytest.approx(math.log(2))  # off-diagonal -1 clamped to 0
    assert found["normalized_entropy"] == pytest.approx(1.0)


@pytest.mark.parametrize("window", [None, 3])
def test_uniform_attention_mixes_completely(window: int | None) -> None:
    found = attention_oracle(uniform(6, window)[None], 0, window)
    assert found["mixing_score"][0] == pytest.approx(1.0)
    assert found["visible_queries"] == (5 if window is None else 2)
    expected = np.mean([1 / 2, 1 / 3] if window else [1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6])
    assert found["sink_attention"][0] == pytest.approx(expected)
    assert found["learned_sink_mass"][0] == pytest.approx(0.0, abs=1e-12)


def test_identity_and_previous_token_attention() -> None:
    identity = attention_oracle(np.eye(4)[None])
    assert identity["identity_score"][0] == 1.0
    assert identity["mixing_score"][0] == 0.0
    assert identity["sink_score"][0] == 0.25
    assert identity["sink_attention"][0] == 0.0
    assert identity["col_sum_concentration"][0] == pytest.approx(0.0)
    previous = np.eye(4, k=-1)
    previous[0, 0] = 1.0
    found = attention_oracle(previous[None])
    assert found["previous_token_score"][0] == 1.0
    assert found["identity_score"][0] == 0.0
    assert found["col_sum_max"][0] == 0.5
    assert found["col_sum_argmax"][0] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_writes_add_up_in_every_family(family: str, tmp_path: Path) -> None:
    model = eager(tiny_folder(family, tmp_path))
    seen, found = record(model, TOKENS), model_oracle(model, TOKENS)
    for layer in range(3):
        total = seen["states"][layer] + seen["attention"][layer] + seen["mlp"][layer]
        np.testing.assert_allclose(total, seen["states"][layer + 1], atol=1e-4)
    assert found["sink_norm"].shape == (4,)
    assert found["sink_value_ratio"].shape == (3, 4)
    assert found["mixing_score"].min() < 0.97
    assert found["mixing_score"].max() <= 1 + 1e-6
    if family == "mistral":
        assert (found["visible_queries"] == 7).all()
    if family == "gemma2":
        assert set(found["visible_queries"]) == {7.0, len(TOKENS) - 1.0}


@pytest.mark.parametrize(("emergence", "dissipation"), [((), ()), ((1,), (5,)), ((0, 2), (4,)), ((2,), ())])
def test_planted_writes(emergence: tuple[int, ...], dissipation: tuple[int, ...], tmp_path: Path) -> None:
    folder = planted_folder(tmp_path, emergence=emergence, dissipation=dissipation, ratio=300.0)
    found = model_oracle(eager(folder), TOKENS)
    for depth, ratio in enumerate(found["norm_ratio"]):
        written = sum(layer < depth for layer in emergence) / max(len(emergence), 1)
        removed = sum(layer < depth for layer in dissipation)
        if written and not removed:
            assert ratio == pytest.approx(300 * written, rel=0.2)
            assert found["top_activation_dimension"][depth] == 0
        else:
            assert ratio < 2
    for layer, norm in enumerate(found["mlp_write_norm"]):
        assert (norm > 50) == (layer in (*emergence, *dissipation))


def test_planted_sinks_are_where_they_were_set(tmp_path: Path) -> None:
    folder = planted_folder(tmp_path, emergence=(1,), dissipation=(4,), sink_layers=(0, 2, 3, 5))
    found = model_oracle(eager(folder), TOKENS)
    for layer in range(6):
        if layer in (0, 2, 3, 5):
            assert found["sink_attention"][layer].min() > 0.9
        else:
            assert found["sink_attention"][layer].max() < 0.2
            assert found["mixing_score"][layer].min() > 0.95


def test_planted_hooked_transformer_is_the_same_function(tmp_path: Path) -> None:
    try:
        from transformer_lens import HookedTransformer  # noqa: F401
    except ImportError:
        pytest.skip("this transformer_lens has no HookedTransformer")
    options = {"emergence": (1,), "dissipation": (4,), "sink_layers": (2, 3)}
    hooked = planted_hooked_transformer(**options)
    model = eager(planted_folder(tmp_path, **options))
    tokens = torch.tensor([TOKENS])
    with torch.no_grad():
        torch.testing.assert_close(hooked(tokens), model(tokens).logits, atol=2e-5, rtol=0)
    assert hooked.to_tokens("w0 w1").tolist() == [[BOS, 3, 4]]


def test_planted_folder_loads_through_the_bridge(tmp_path: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    folder = planted_folder(tmp_path, sink_layers=(2, 3))
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    tokens = torch.tensor([TOKENS])
    with torch.no_grad():
        torch.testing.assert_close(bridge(tokens), eager(folder)(tokens).logits, atol=2e-5, rtol=0)
    assert bridge.to_tokens("w0 w1").tolist() == [[BOS, 3, 4]]
