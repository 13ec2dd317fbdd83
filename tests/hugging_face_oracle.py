"""Run a Hugging Face model once and hand what it computed to the NumPy oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from oracle import (
    Array,
    attention_oracle,
    members,
    residual_oracle,
    value_oracle,
    write_oracle,
)

# where each family keeps its layers, and which modules write into the residual stream
LAYERS = {
    "gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "bloom": "transformer.h",
    "opt": "model.decoder.layers", "gptj": "transformer.h", "gpt_neo": "transformer.h",
    "falcon": "transformer.h",
}  # fmt: skip
# BLOOM's two modules add the residual stream to what they return; their last linear maps are the writes.
ATTENTION_WRITE = {
    "gpt2": "attn", "gpt_neox": "attention", "gemma2": "post_attention_layernorm",
    "gemma3_text": "post_attention_layernorm", "olmo2": "post_attention_layernorm",
    "bloom": "self_attention.dense", "gptj": "attn", "gpt_neo": "attn", "falcon": "self_attention",
}  # fmt: skip
MLP_WRITE = {
    "gemma2": "post_feedforward_layernorm", "gemma3_text": "post_feedforward_layernorm",
    "olmo2": "post_feedforward_layernorm", "bloom": "mlp.dense_4h_to_h", "opt": "fc2",
}  # fmt: skip
VALUE = {
    "gpt2": "attn.c_attn", "gpt_neox": "attention.query_key_value", "gptj": "attn.v_proj",
    "bloom": "self_attention.query_key_value", "falcon": "self_attention.query_key_value",
    "gpt_neo": "attn.attention.v_proj", "phi3": "self_attn.qkv_proj",
}  # fmt: skip


def tensor_of(output: Any) -> Array:
    """The first tensor of a module's output, without the batch axis (if it has one), in float64."""
    tensor = output[0] if isinstance(output, tuple) else output
    rows = tensor if tensor.ndim == 2 else tensor[0]  # OPT's MLP sees the tokens of all prompts as one list
    return rows.detach().double().cpu().numpy()


def layer_windows(config: Any) -> list[int | None]:
    """Keys a query may see in each layer (None: all before it), read from the configuration."""
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return [None] * config.num_hidden_layers
    if kinds is None:
        return [window] * config.num_hidden_layers
    return [window if kind in ("sliding_attention", "local") else None for kind in kinds]


def split_values(family: str, projected: Array, config: Any) -> Array:
    """Value vectors [T, H_kv, d_head] from what the value (or fused) projection returned."""
    heads, tokens = config.num_attention_heads, projected.shape[0]
    if family == "gpt2":
        return projected[:, -config.hidden_size :].reshape(tokens, heads, -1)
    d_head = config.hidden_size // heads
    if family == "falcon" and config.multi_query:
        assert not config.new_decoder_architecture
        return projected[:, None, -d_head:]  # all heads share one key and one value, the last two
    if family in ("gpt_neox", "bloom", "falcon"):
        return projected.reshape(tokens, heads, -1)[..., -d_head:]
    value_heads = getattr(config, "num_key_value_heads", heads)
    if family == "phi3":
        return projected[:, -value_heads * d_head :].reshape(tokens, value_heads, d_head)
    return projected.reshape(tokens, value_heads, -1)


def record(model: Any, tokens: Sequence[int]) -> dict[str, list[Array]]:
    """One forward pass: states [L+1], writes [L], projected values [L], patterns [L]."""
    family = model.config.model_type
    layers = model.get_submodule(LAYERS.get(family, "model.layers"))
    seen: dict[str, list[Array]] = {"states": [], "attention": [], "mlp": [], "value": []}
    handles = []

    def keep(module: Any, key: str) -> None:
        handles.append(
            module.register_forward_hook(lambda _module, _inputs, output: seen[key].append(tensor_of(output)))
        )

    def keep_input(_module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen["states"].append(tensor_of(inputs[0] if inputs else named["hidden_states"]))

    for layer in layers:
        handles.append(layer.register_forward_pre_hook(keep_input, with_kwargs=True))
        keep(layer.get_submodule(ATTENTION_WRITE.get(family, "self_attn")), "attention")
        keep(layer.get_submodule(MLP_WRITE.get(family, "mlp")), "mlp")
        keep(layer.get_submodule(VALUE.get(family, "self_attn.v_proj")), "value")
    keep(layers[-1], "states")
    try:
        with torch.no_grad():
            output = model(
                torch.tensor([list(tokens)], device=model.device),
                output_hidden_states=True,
                output_attentions=True,
                use_cache=False,
            )
    finally:
        for handle in handles:
            handle.remove()
    seen["pattern"] = [pattern[0].double().cpu().numpy() for pattern in output.attentions]
    for recorded, returned in zip(seen["states"][:-1], output.hidden_states, strict=False):
        np.testing.assert_array_equal(recorded, tensor_of(returned))
    return seen


def write_variables(seen: dict[str, list[Array]], layer: int, s: int) -> dict[str, float]:
    """The four (prompt, layer) write variables at the sink position."""
    state = seen["states"][layer + 1][s]
    variables = {}
    for kind in ("mlp", "attention"):
        norm, along = write_oracle(seen[kind][layer][s], state)
        variables[f"{kind}_write_norm"], variables[f"{kind}_write_along"] = norm, along
    return variables


def stack(rows: list[dict[str, Any]]) -> dict[str, Array]:
    """A list of dictionaries with equal keys -> one dictionary of stacked arrays."""
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}


def model_oracle(
    model: Any, tokens: Sequence[int], s: int | tuple[int, ...] = 0, **estimator: Any
) -> dict[str, Array]:
    """Every variable of one prompt: [L+1], [L] or [L, H].

    `model` is a Hugging Face causal model loaded with attn_implementation="eager"; `tokens` are
    the real token ids (BOS included when wanted); `estimator` is passed to `residual_oracle`.
    """
    if model.config._attn_implementation != "eager":
        raise ValueError('load the model with attn_implementation="eager"')
    config, seen = model.config, record(model, tokens)
    family, heads = config.model_type, config.num_attention_heads
    depths = [residual_oracle(state, s, **estimator) for state in seen["states"]]
    layers = []
    for layer, window in enumerate(layer_windows(config)):
        values = split_values(family, seen["value"][layer], config)
        layers.append(
            write_variables(seen, layer, members(s)[0])
            | attention_oracle(seen["pattern"][layer], s, window)
            | {"sink_value_ratio": value_oracle(values, heads, members(s)[0])}
        )
    return stack(depths) | stack(layers)
