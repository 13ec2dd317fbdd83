"""The sizes of a model that its memory depends on: from its configuration, or of one that is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from mcr_lens.errors import InputError, one_line
from mcr_lens.models.backend import Model
from mcr_lens.models.boundaries import layer_windows
from mcr_lens.models.hub import hub_or_cache
from mcr_lens.models.info import model_facts
from mcr_lens.models.load_checks import empty_model, model_folder, refuse_encoder, refuse_unknown

__all__ = ["ModelSizes", "configured_sizes", "loaded_sizes", "read_sizes"]


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a decoder that memory depends on; parameters are counts, and 0 for a model that is loaded.

    Attributes:
        d_mlp: width of an MLP, all experts of a token together.
        windows: keys a query may see in each layer; ``None`` where attention is global.
        joint_qkv: whether one matrix makes queries, keys and values, as in GPT-2, GPT-NeoX and BLOOM.
            ``TransformerBridge`` then keeps the last pattern of every layer.
        softcap: whether the logits go through one.
        block_parameters: of all blocks together; ``other_parameters``: what is tied counted once.
        tied_parameters: of an unembedding that shares its numbers with the embedding; ``HookedTransformer``
            holds them a second time.
    """

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    windows: tuple[int | None, ...]
    joint_qkv: bool
    softcap: bool
    block_parameters: int = 0
    other_parameters: int = 0
    tied_parameters: int = 0

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.block_parameters + self.other_parameters


def loaded_sizes(model: Model) -> ModelSizes:
    """Sizes of a model that is loaded, without its parameters: their memory is taken already."""
    facts, cfg = model_facts(model), model.cfg
    experts = getattr(cfg, "experts_per_token", None) if getattr(cfg, "num_experts", None) else None
    return ModelSizes(
        n_layers=facts.n_layers,
        n_heads=facts.n_heads,
        n_key_value_heads=getattr(cfg, "n_key_value_heads", None) or facts.n_heads,
        d_model=facts.d_model,
        d_head=cfg.d_head,
        d_mlp=(cfg.d_mlp or 4 * facts.d_model) * (experts or 1),
        d_vocab=facts.d_vocab,
        n_ctx=facts.n_ctx,
        windows=facts.windows,
        joint_qkv=any(name.startswith("blocks.0.attn.qkv") for name in model.hook_dict),
        softcap=(getattr(cfg, "output_logits_soft_cap", None) or 0) > 0,
    )


def read_sizes(
    model: str | Path | PreTrainedConfig, revision: str | None = None
) -> tuple[str, PreTrainedConfig, ModelSizes]:
    """Name, configuration and sizes of a model that is not loaded.

    Raises:
        InputError: for what is no model, an encoder, or a configuration that cannot be read.
    """
    if not isinstance(model, str | Path | PreTrainedConfig):
        raise InputError(f"give a model's name, folder or configuration, not a {type(model).__name__}")
    name = str(model)
    try:
        if isinstance(model, PreTrainedConfig):
            name, config = str(model.name_or_path or model.model_type), model
        elif (folder := model_folder(name, revision)) is not None:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        else:
            with hub_or_cache():
                config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        refuse_encoder(config, name)
        if config.architectures:  # a configuration made by hand names none
            refuse_unknown(config, name)
        return name, config, configured_sizes(config)
    except InputError:
        raise
    except Exception as error:  # missing, broken, of an unknown type, behind no network, of no possible size
        raise InputError(
            f"{name}: its configuration cannot be read, or makes no decoder language model "
            f"({one_line(error, 160)}); give a model that can be reached, or a folder with its config.json"
        ) from error


def configured_sizes(config: PreTrainedConfig) -> ModelSizes:
    """Sizes of the model of a Hugging Face configuration, counted on a model without storage."""
    sizes: Any = config.get_text_config(decoder=True)
    model: Any = empty_model(config)
    n_layers, n_heads, d_model = sizes.num_hidden_layers, sizes.num_attention_heads, sizes.hidden_size
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == n_layers]
    in_blocks = max(map(_count, lists), default=0)
    if not (in_blocks and n_heads):
        raise ValueError("it has no parameters, layers or attention heads")
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = unembedding is not None and unembedding.weight is embedding.weight
    widths = ("moe_intermediate_size", "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
    experts = _first(sizes, "num_local_experts", "num_experts", "n_routed_experts")
    active = _first(sizes, "num_experts_per_tok", "experts_per_token", "top_k") if experts else None
    joint = ("query_key_value", "c_attn", "qkv_proj", "Wqkv")
    return ModelSizes(
        n_layers=n_layers,
        n_heads=n_heads,
        n_key_value_heads=_first(sizes, "num_key_value_heads") or n_heads,
        d_model=d_model,
        d_head=_first(sizes, "head_dim") or d_model // n_heads,
        d_mlp=(_first(sizes, *widths) or 4 * d_model) * (active or 1),
        d_vocab=sizes.vocab_size,
        n_ctx=_first(sizes, "max_position_embeddings") or 2**31,
        windows=layer_windows(sizes, n_layers),
        joint_qkv=any(part in name for name, _ in model.named_parameters() for part in joint),
        softcap=bool(_first(sizes, "final_logit_softcapping")),
        block_parameters=in_blocks,
        other_parameters=_count(model) - in_blocks,
        tied_parameters=embedding.weight.numel() if is_tied else 0,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _first(config: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(config, name, None))), None)
