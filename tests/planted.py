"""Tiny Llama models whose first-token write, its removal and the sinks are set by hand.

Three dimensions of the residual stream are reserved. 0: the massive dimension, zero until the
emergence MLP writes it. 1: the marker, non-zero for BOS alone. 2: a constant, equal for all tokens.
No other weight reads or writes them, so the planted numbers are exact up to float error.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from families import VOCABULARY, save_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

MASSIVE, MARKER, CONSTANT, RESERVED = 0, 1, 2, 3
BOS = 1
D_MODEL, N_HEADS, D_HEAD, D_MLP = 32, 4, 8, 48


def small_llama(n_layers: int, seed: int, marked: tuple[int, ...] = (BOS,)) -> Any:
    """Small random weights that leave the reserved dimensions alone; token norms are about 1."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=D_MODEL, intermediate_size=D_MLP,
        num_hidden_layers=n_layers, num_attention_heads=N_HEADS, num_key_value_heads=N_HEADS,
        max_position_embeddings=512, tie_word_embeddings=False, rms_norm_eps=1e-5,
        bos_token_id=BOS, eos_token_id=BOS, pad_token_id=0,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).eval()
    model.set_attn_implementation("eager")
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        readers = (attention.q_proj, attention.k_proj, attention.v_proj)
        for reader in (*readers, mlp.gate_proj, mlp.up_proj):
            reader.weight[:, :RESERVED] = 0.0
        for writer in (attention.o_proj, mlp.down_proj):
            writer.weight[:RESERVED] = 0.0
    embedding = model.model.embed_tokens.weight
    content = torch.randn(VOCABULARY, D_MODEL - RESERVED, generator=generator)
    embedding.zero_()
    embedding[:, RESERVED:] = 0.85 * content / content.norm(dim=1, keepdim=True)
    embedding[:, CONSTANT] = 0.5
    embedding[list(marked), MARKER] = 1.0
    return model


def mlp_input(model: Any, layer: int) -> torch.Tensor:
    """The normalised state [d_model] the layer's MLP reads at BOS (causal: no other token counts)."""
    seen: list[torch.Tensor] = []
    handle = model.model.layers[layer].mlp.register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0][0, 0])
    )
    try:
        model(torch.tensor([[BOS]]), use_cache=False)
    finally:
        handle.remove()
    return seen[0]


def plant_write(model: Any, layer: int, source: int, size: float) -> None:
    """Let neuron 0 of the layer's MLP read one dimension and write `size` at the massive one."""
    mlp = model.model.layers[layer].mlp
    for reader in (mlp.gate_proj, mlp.up_proj):
        reader.weight[0] = 0.0
        reader.weight[0, source] = 1.0
    read = mlp_input(model, layer)[source].double()
    mlp.down_proj.weight[:, 0] = 0.0
    mlp.down_proj.weight[MASSIVE, 0] = size / (torch.nn.functional.silu(read) * read)


def plant_sink(model: Any, layer: int, source: int) -> None:
    """Let every head's queries read the constant and its keys `source`, which BOS alone has."""
    attention = model.model.layers[layer].self_attn
    for head in range(N_HEADS):
        slow = head * D_HEAD + D_HEAD // 2 - 1  # the pair that the rotation turns least
        attention.q_proj.weight[slow, CONSTANT] = 2.0
        attention.k_proj.weight[slow, source] = 2.0


def planted_llama(
    emergence: tuple[int, ...] = (1,),
    dissipation: tuple[int, ...] = (5,),
    ratio: float = 300.0,
    sink_layers: tuple[int, ...] = (),
    n_layers: int = 6,
    seed: int = 0,
    marked: tuple[int, ...] = (BOS,),
) -> Any:
    """Build the model. All MLP writes named in `emergence` (equal shares) add up to `ratio`.

    `dissipation` layers take it back in equal shares; () leaves it. `emergence=()` plants nothing.
    `ratio` is the write's norm; other tokens have norm about 1, so it is also the norm ratio.
    A sink layer's keys read the massive dimension while it is there (remove the write and the sink
    goes too) and the marker elsewhere. Other layers attend nearly uniformly.
    Every token of `marked` becomes massive, wherever it stands.
    """
    planted = (*emergence, *dissipation)
    if list(planted) != sorted(set(planted)) or any(not 0 <= x < n_layers for x in planted):
        raise ValueError(f"emergence then dissipation must increase within 0..{n_layers - 1}")
    if dissipation and not emergence:
        raise ValueError("dissipation without emergence: nothing to take back")
    with torch.no_grad():
        model = small_llama(n_layers, seed, marked)
        for layer in sink_layers:
            after = bool(emergence) and layer > emergence[0]
            before = not dissipation or layer <= dissipation[-1]
            plant_sink(model, layer, MASSIVE if after and before else MARKER)
        for stage, layer in enumerate(emergence):
            plant_write(model, layer, MASSIVE if stage else MARKER, ratio / len(emergence))
        for layer in dissipation:
            plant_write(model, layer, MASSIVE, -ratio / len(dissipation))
    return model


def planted_folder(tmp_path: Path, **options: Any) -> Path:
    """Save `planted_llama(**options)` and its tokenizer as a Hugging Face folder."""
    folder = tmp_path / "planted"
    planted_llama(**options).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def planted_hooked_transformer(**options: Any) -> Any:
    """The same function as `planted_llama(**options)` as a HookedTransformer with a tokenizer.

    Raises ImportError where transformer_lens has no HookedTransformer (4.0 and newer).
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
    from transformers import AutoTokenizer

    llama = planted_llama(**options)
    with TemporaryDirectory() as folder:
        save_tokenizer(Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        config = HookedTransformerConfig(
            n_layers=llama.config.num_hidden_layers, d_model=D_MODEL, n_ctx=512, d_head=D_HEAD,
            n_heads=N_HEADS, d_mlp=D_MLP, d_vocab=VOCABULARY, act_fn="silu", gated_mlp=True,
            normalization_type="RMS", final_rms=True, eps=1e-5, rotary_dim=D_HEAD,
            positional_embedding_type="rotary", rotary_base=10000, device="cpu",
            original_architecture="LlamaForCausalLM", model_name="planted",
        )  # fmt: skip
        model = HookedTransformer(config, tokenizer=tokenizer)
    missing = model.load_state_dict(convert_llama_weights(llama, config), strict=False)
    assert not missing.unexpected_keys
    return model.eval()
