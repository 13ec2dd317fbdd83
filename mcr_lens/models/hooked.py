"""Ways to a ``HookedTransformer``: by official name, or from a Hugging Face folder of a known type."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mcr_lens.errors import InputError
from mcr_lens.models.backend import HookedTransformer, Model

__all__ = ["from_folder", "from_name", "supports_name"]


def supports_name(name: str) -> bool:
    """True for an official name or alias of ``HookedTransformer``."""
    from transformer_lens.loading_from_pretrained import (  # type: ignore[import-not-found]
        get_official_model_name,
    )

    try:
        get_official_model_name(name)
    except ValueError:
        return False
    return True


def from_name(name: str, options: dict[str, Any]) -> Model:
    """Raw weights by official name: centring would change the residual norms of LayerNorm models."""
    assert HookedTransformer is not None
    return HookedTransformer.from_pretrained_no_processing(name, **options)


def from_folder(folder: Path, options: dict[str, Any]) -> Model:
    """A ``HookedTransformer`` with the weights of a local folder, through TransformerLens's conversion.

    Raises:
        InputError: for a model type without a conversion here.
    """
    assert HookedTransformer is not None
    unknown = sorted(set(options) - {"dtype", "device"})
    if unknown:
        raise InputError(f"{', '.join(unknown)}: no option of this loader; use backend='bridge'")
    from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig

    dtype = options.get("dtype", torch.float32)
    source = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    convert = _conversion(source.config.model_type, folder)
    config = HookedTransformerConfig(
        **_llama_like_config(source.config),
        model_name=folder.name,
        dtype=dtype,
        device=str(options["device"]) if options.get("device") else None,
    )
    tokenizer = None
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = HookedTransformer(config, tokenizer=tokenizer, move_to_device=False)
    model.load_and_process_state_dict(
        convert(source, config),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    model.to(str(config.device), print_details=False)
    model.eval()
    _refuse_another_function(model, source, folder)
    return model


def _refuse_another_function(model: Model, source: Any, folder: Path) -> None:
    """A conversion may leave out what it does not know: biases, windows, scaled positions."""
    window = getattr(source.config, "sliding_window", None) or 0
    length = min(model.cfg.n_ctx, window + 16)
    tokens = torch.arange(length)[None] % model.cfg.d_vocab
    with torch.no_grad():
        expected = source(tokens).logits.float()
        found = model(tokens.to(model.cfg.device)).float().cpu()
    error = float((found - expected).norm() / expected.norm())
    if not error <= (1e-3 if model.cfg.dtype == torch.float32 else 0.1):
        raise InputError(
            f"{folder}: TransformerLens's conversion makes another function of it (logits differ by "
            f"{error:.2g}); use backend='bridge'"
        )


def _conversion(model_type: str, folder: Path) -> Callable[..., dict[str, torch.Tensor]]:
    from transformer_lens.pretrained.weight_conversions.llama import (  # type: ignore[import-not-found]
        convert_llama_weights,
    )
    from transformer_lens.pretrained.weight_conversions.qwen2 import (  # type: ignore[import-not-found]
        convert_qwen2_weights,
    )

    conversions = {
        "llama": convert_llama_weights,
        "qwen2": convert_qwen2_weights,
    }
    if model_type not in conversions:
        raise InputError(
            f"{folder}: model type {model_type!r} has no HookedTransformer conversion here "
            f"(there is one for {', '.join(conversions)}); use backend='bridge'"
        )
    return conversions[model_type]


def _llama_like_config(config: Any) -> dict[str, Any]:
    """TransformerLens's names for a Hugging Face configuration of the Llama kind."""
    heads = config.num_attention_heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise InputError(f"rotary scaling {rope['rope_type']!r} has no conversion; use backend='bridge'")
    return {
        "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "n_ctx": config.max_position_embeddings,
        "d_head": d_head,
        "n_heads": heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_mlp": config.intermediate_size,
        "d_vocab": config.vocab_size,
        "act_fn": config.hidden_act,
        "eps": config.rms_norm_eps,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": d_head,
        "rotary_base": rope.get("rope_theta", 10000.0),
        "original_architecture": (config.architectures or [""])[0],
    }
