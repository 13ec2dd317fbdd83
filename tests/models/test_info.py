"""The facts of a model, from its own configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from families import save_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

import mcr_lens as mcr
from mcr_lens.models import info, model_facts


@pytest.mark.parametrize(
    ("family", "windows"),
    [
        ("llama", (None, None, None)),
        ("qwen2", (None, None, None)),
        ("gpt2", (None, None, None)),
        ("mistral", (8, 8, 8)),
        ("gemma2", (8, None, 8)),
    ],
)
def test_windows_of_each_layer(
    family: str, windows: tuple[int | None, ...], family_folder: Callable[[str], Path]
) -> None:
    folder = family_folder(family)
    assert model_facts(mcr.load_model(folder)).windows == windows
    kinds = getattr(AutoConfig.from_pretrained(folder), "layer_types", None)
    if kinds is not None:
        assert [window is not None for window in windows] == [kind == "sliding_attention" for kind in kinds]


def test_a_window_is_what_the_pattern_shows(family_folder: Callable[[str], Path]) -> None:
    """Beyond the window nothing is attended to, in the windowed layers and only there."""
    model = mcr.load_model(family_folder("gemma2"))
    windows = model_facts(model).windows
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        (f"blocks.{i}.attn.hook_pattern", lambda p, hook, i=i: seen.__setitem__(i, p.clone()))
        for i in range(3)
    ]
    with torch.no_grad():
        model.run_with_hooks(torch.arange(1, 21)[None], fwd_hooks=hooks)
    for layer, window in enumerate(windows):
        first_key_of_the_last_query = int((seen[layer][0, 0, -1] > 1e-6).nonzero()[0])
        assert first_key_of_the_last_query == (0 if window is None else 20 - window)


@pytest.mark.usefixtures("hooked_transformer")
def test_windows_of_a_hooked_transformer() -> None:
    from transformer_lens import HookedTransformer, HookedTransformerConfig  # type: ignore[attr-defined]

    config = HookedTransformerConfig(
        n_layers=3, d_model=16, n_ctx=64, d_head=8, n_heads=2, d_mlp=32, d_vocab=50, act_fn="gelu",
        use_local_attn=True, window_size=5, attn_types=["global", "local", "global"], device="cpu",
        normalization_type="LNPre",
    )  # fmt: skip
    facts = model_facts(HookedTransformer(config))
    assert facts.windows == (None, 5, None)
    assert facts.processing == "folded norms"


def test_numbers_of_a_model(llama: Any, llama_folder: Path) -> None:
    facts = model_facts(llama)
    config = json.loads((llama_folder / "config.json").read_text())
    assert facts.n_layers == config["num_hidden_layers"]
    assert facts.n_heads == config["num_attention_heads"]
    assert facts.d_model == config["hidden_size"]
    assert facts.d_vocab == config["vocab_size"]
    assert facts.n_ctx == config["max_position_embeddings"]
    assert (facts.dtype, facts.device, facts.backend) == ("float32", "cpu", "bridge")
    assert facts.revision is None
    assert not facts.learned_sink


def test_facts_are_looked_up_once(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = model_facts(llama)
    monkeypatch.setattr("mcr_lens.models.info.self_check", None)
    assert model_facts(llama) == facts


def test_attributes_can_be_stored(llama: Any) -> None:
    attributes = model_facts(llama).attributes()
    assert json.loads(json.dumps(attributes)) == attributes
    assert attributes["versions"]["torch"] == version("torch")
    assert attributes["versions"]["mcr-lens"] == mcr.__version__


def test_a_model_of_the_users_own(llama_folder: Path) -> None:
    """Not loaded by us: named after its own configuration, checked all the same."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(llama_folder), device="cpu")
    assert mcr.load_model(bridge) is bridge
    facts = model_facts(bridge)
    assert "llama" in facts.name
    assert facts.failed_checks == {}
    assert facts.processing == "raw"


def test_compatibility_mode_is_told(llama_folder: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(llama_folder), device="cpu")
    bridge.enable_compatibility_mode()
    assert model_facts(bridge).processing == "compatibility mode"


def test_learned_sinks_are_seen(tmp_path: Path) -> None:
    """gpt-oss: a learned logit takes part in the softmax and is dropped."""
    config = AutoConfig.for_model(
        "gpt_oss", vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=2,
        num_experts_per_tok=1, sliding_window=8, max_position_embeddings=128, bos_token_id=1,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    facts = model_facts(mcr.load_model(tmp_path))
    assert facts.learned_sink
    assert "pattern_rows" not in facts.failed_checks
    assert facts.windows == (8, None)


def test_a_measurement_looks_its_facts_up_once(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[Any] = []
    monkeypatch.setattr(info, "_state", lambda model, of=info._state: states.append(model) or of(model))
    prompts = mcr.Prompts.from_tokens([[1, 5, 6, 7], [1, 8, 9]])
    mcr.profile(llama, prompts, chunk="auto", progress=False)
    assert len(states) == 1
    # The next one sees what has become of the model.
    mcr.profile(llama, prompts, progress=False)
    assert len(states) == 2
