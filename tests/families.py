"""Tiny random-weight Hugging Face folders of several decoder families, made offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

# A few that differ most, for tests of other things than families.
FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "mistral", "gemma2")
ALL_FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "bloom",
    "opt", "gptj", "gpt_neo", "phi3", "olmo2", "falcon", "mixtral", "gpt_oss",
)  # fmt: skip
VOCABULARY = 64
WORDS = [f"w{number}" for number in range(VOCABULARY - 3)]

_ATTENTION = {"num_attention_heads": 4, "hidden_size": 32, "num_hidden_layers": 3}
_GATED = {**_ATTENTION, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
_GROUPED = {key: value for key, value in _GATED.items() if key != "head_dim"}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
OPTIONS: dict[str, dict[str, Any]] = {
    "llama": _GATED,
    "mistral": {**_GATED, "sliding_window": 8},
    "qwen2": _GROUPED,
    "qwen3": _GATED,
    "gemma": _GATED,
    "gemma2": {**_GATED, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        **_GATED, "sliding_window": 8, "query_pre_attn_scalar": 8, "layer_types": _ALTERNATING
    },
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
    "gpt_neox": {**_ATTENTION, "intermediate_size": 64, "rotary_pct": 0.5, "use_parallel_residual": True},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "opt": {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 64,
        "word_embed_proj_dim": 32,
    },
    "gptj": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "rotary_dim": 4},
    "gpt_neo": {
        "hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 128,
        "attention_types": [[["global", "local", "global"], 1]], "window_size": 8,
    },
    "phi3": {**_GROUPED, "sliding_window": 8},
    "olmo2": _GROUPED,
    "falcon": {**_ATTENTION, "multi_query": True, "parallel_attn": True},
    "mixtral": {**_GATED, **_EXPERTS},
    "gpt_oss": {**_GATED, **_EXPERTS, "sliding_window": 8, "layer_types": _ALTERNATING},
}  # fmt: skip
# What else the released models of these families are: family, and what differs in the configuration.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon, ALiBi": ("falcon", {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    "falcon, new decoder": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gpt_neox, one after the other": ("gpt_neox", {"use_parallel_residual": False}),
    "opt, norms after": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
}
# Architectures whose attention TransformerBridge leaves to Hugging Face: an edited pattern goes nowhere.
DELEGATED = ("gptj", "gpt_neo", "opt")


def save_tokenizer(folder: Path) -> None:
    """Save a fast word-level tokenizer: <pad> 0, <bos> 1 (prepended exactly once), <unk> 2."""
    entries = ["<pad>", "<bos>", "<unk>", *WORDS]
    vocabulary = {word: number for number, word in enumerate(entries)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<bos>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=256,
    ).save_pretrained(folder)


def tiny_folder(family: str, tmp_path: Path, *, seed: int = 0, scale: float = 0.25, **changed: Any) -> Path:
    """Save a 3-layer random model of a family with its tokenizer; returns the folder.

    `changed` are fields of the configuration that differ from OPTIONS, or all of another family.
    `scale` is the standard deviation of every weight matrix and bias: large enough that attention
    patterns are far from uniform. Norm gains are 1 + noise, so that none is an identity (Gemma's are
    stored less one).
    """
    folder = tmp_path / family
    fields = {
        "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
        "tie_word_embeddings": False,
    }  # fmt: skip
    if family != "gpt2":
        fields["max_position_embeddings"] = 256
    config = AutoConfig.for_model(family, **(fields | OPTIONS.get(family, {}) | changed))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * scale
            is_gain = parameter.ndim == 1 and name.endswith("weight") and not family.startswith("gemma")
            parameter.copy_(1.0 + noise if is_gain else noise)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def eager(folder: Path) -> Any:
    """Load a saved folder as a Hugging Face model with eager attention, in evaluation mode."""
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
