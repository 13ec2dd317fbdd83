"""Models that compute otherwise beyond a length: measured rightly on both sides of it, or refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import eager, tiny_folder
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

import mcr_lens as mcr
from mcr_lens.doubts import DoubtWarning
from mcr_lens.models import boundaries, model_facts
from mcr_lens.models.boundaries import checked_lengths
from mcr_lens.models.self_check import cache_check, self_check
from mcr_lens.results import caveats

SHORT, LONG, LONGER = [1, *range(22, 29)], [1, *range(3, 22)], [1, *range(3, 40)]
LONGROPE = {
    "sliding_window": None,
    "max_position_embeddings": 48,
    "original_max_position_embeddings": 12,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
        "original_max_position_embeddings": 12,
    },
}


@pytest.fixture(scope="module")
def longrope_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("phi3", tmp_path_factory.mktemp("longrope"), **LONGROPE)


@pytest.fixture(scope="module")
def longrope(longrope_folder: Path) -> Any:
    return mcr.load_model(longrope_folder)


def alone(folder: Path, ids: list[int]) -> tuple[list[float], list[float]]:
    """Norm ratio by depth and sink score by layer, of a prompt alone in plain transformers."""
    with torch.no_grad():
        output = eager(folder)(
            torch.tensor([ids]), output_attentions=True, output_hidden_states=True, use_cache=False
        )
    norms = [states[0].norm(dim=-1) for states in output.hidden_states[:-1]]  # the last is after the norm
    ratios = [float(norm[0] / norm[1:].mean()) for norm in norms]
    return ratios, [float(pattern[0, :, :, 0].mean()) for pattern in output.attentions]


def measured(model: Any, prompts: list[list[int]], **options: Any) -> list[tuple[list[float], list[float]]]:
    data = mcr.profile(model, mcr.Prompts.from_tokens(prompts), progress=False, **options).data
    return [
        (row.norm_ratio.values[:-1].tolist(), row.sink_score.mean("head").values.tolist())
        for _, row in data.groupby("prompt")
        for row in [row.squeeze("prompt")]
    ]


def test_row_1_longrope_in_any_company(longrope: Any, longrope_folder: Path) -> None:
    """The rotary factors are chosen by the longest position of a call, so batches must not straddle 12."""
    prompts = [SHORT, LONG, LONGER, SHORT[:5]]
    truth = [alone(longrope_folder, ids) for ids in prompts]
    for options in (
        {},
        {"batch_size": 1},
        {"batch_size": 4},
        {"chunk": "auto"},
        {"chunk": 13},
        {"chunk": 16},
    ):
        for got, expected in zip(measured(longrope, prompts, **options), truth, strict=True):
            for values, known in zip(got, expected, strict=True):
                np.testing.assert_allclose(values, known, atol=2e-5, err_msg=str(options))
    assert model_facts(longrope).failed_checks == {}


def test_row_1_longrope_in_a_text_that_grows(longrope: Any) -> None:
    """Beyond 12 tokens the first ones are computed otherwise, too."""
    short = mcr.Prompts.from_tokens([[1, *range(5, 12)]])
    grown = mcr.profile_generation(longrope, short, 4, steps=[0, 4], progress=False)
    alone = mcr.profile(longrope, short, progress=False)
    np.testing.assert_allclose(grown.data.norm_ratio.sel(step=0), alone["norm_ratio"], rtol=1e-5)
    with pytest.raises(mcr.InputError, match="beyond 12 tokens"):
        mcr.profile_generation(longrope, short, 5, progress=False)


def test_row_1_longrope_in_chunks_that_mix_factors(longrope: Any, longrope_folder: Path) -> None:
    for chunk in (5, 12):
        with pytest.raises(
            mcr.InputError, match=r"beyond 12 tokens, and a prompt has 20; .*chunk=13 or more"
        ):
            measured(longrope, [SHORT, LONG], chunk=chunk)
    (got,) = measured(longrope, [SHORT], chunk=5)
    np.testing.assert_allclose(got[1], alone(longrope_folder, SHORT)[1], atol=2e-5)


def test_row_1_patching_keeps_to_one_side(longrope: Any) -> None:
    pairs = mcr.PromptPairs(
        mcr.Prompts.from_tokens([SHORT, LONG]), mcr.Prompts.from_tokens([SHORT[::-1], LONG[::-1]])
    )
    cost = mcr.models.batch_cost(longrope)
    assert [len(batch.pairs) for batch in pairs.batches(8, cost)] == [1, 1]


def test_windows_are_checked_on_both_sides(tmp_path: Path) -> None:
    model = mcr.load_model(tiny_folder("gemma2", tmp_path))
    assert checked_lengths(model) == ((4, 6, 8, 12), ())
    assert cache_check(model) is None
    seen: list[tuple[int, int]] = []
    handle = model.original_model.register_forward_pre_hook(
        lambda module, args, options: seen.append(tuple(args[0].shape)), with_kwargs=True
    )
    assert self_check(model).failed == {}
    handle.remove()
    assert {(1, 12), (1, 8), (4, 12)} <= set(seen)


def test_a_window_too_far_for_the_check_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundaries, "_MOST_TOKENS", 7)
    model = mcr.load_model(tiny_folder("mistral", tmp_path))
    assert checked_lengths(model) == ((4, 6), (8,))
    assert not any("self-check ran" in each for each in caveats(mcr.profile(model, SHORT, progress=False)))
    with pytest.warns(DoubtWarning, match="beyond 8"):
        profile = mcr.profile(model, LONG, progress=False)
    (note,) = (each for each in caveats(profile) if "self-check ran" in each)
    assert (
        note.startswith("A prompt has 20 tokens") and note in repr(profile) and note in profile._repr_html_()
    )


@pytest.fixture
def unmasked(tmp_path: Path) -> Any:
    """A default OPT whose layers attend eagerly, while the model leaves the mask to fused attention."""
    folder = tiny_folder("opt", tmp_path)
    source = AutoModelForCausalLM.from_pretrained(folder)
    of_layers = copy.deepcopy(source.config)
    of_layers._attn_implementation = "eager"
    for layer in source.model.decoder.layers:
        layer.self_attn.config = of_layers
    bridge = TransformerBridge.boot_transformers(str(folder), hf_model=source, device="cpu")
    source.config._attn_implementation = "sdpa"  # TransformerLens 4 sets it to eager
    return bridge


def test_row_2_a_model_without_causal_mask_is_refused(unmasked: Any) -> None:
    words = r"anything measured cannot be trusted .*what comes after them.* attn_implementation='eager'"
    for call in (
        lambda: mcr.load_model(unmasked),
        lambda: mcr.profile(unmasked, SHORT, progress=False),
        lambda: mcr.logit_lens(unmasked, SHORT, progress=False),
    ):
        with pytest.raises(mcr.InputError, match=words):
            call()


def test_row_2_opt_around_a_default_model(tmp_path: Path) -> None:
    """Fused attention has no patterns: what needs them is left out and named, the rest is right."""
    folder = tiny_folder("opt", tmp_path)
    with pytest.warns(DoubtWarning):
        model = mcr.load_model(folder, hf_model=AutoModelForCausalLM.from_pretrained(folder))
    profile = mcr.profile(model, SHORT, progress=False)
    expected = mcr.profile(mcr.load_model(folder), SHORT, progress=False)
    np.testing.assert_allclose(profile["norm_ratio"], expected["norm_ratio"], atol=1e-5)
    if "sink_score" in profile:  # TransformerLens 4 sets eager attention itself
        np.testing.assert_allclose(profile["sink_score"], expected["sink_score"], atol=1e-5)
    else:
        assert any(
            "load the Hugging Face model with attn_implementation='eager'" in w for w in caveats(profile)
        )
