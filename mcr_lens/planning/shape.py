"""The sizes of a model that memory and time depend on, from its configuration: no weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from mcr_lens.errors import InputError, one_line
from mcr_lens.models.backend import Model, as_module
from mcr_lens.models.hub import hub_or_cache
from mcr_lens.models.info import model_facts
from mcr_lens.models.load_checks import refuse_too_deep
from mcr_lens.models.revisions import refuse_revision
from mcr_lens.models.suited import refuse_encoder
from mcr_lens.tiny import weights_folder

__all__ = ["ModelShape", "loaded_shape", "model_shape"]

_MLP_WIDTHS = ("moe_intermediate_size", "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_JOINT = ("query_key_value", "c_attn", "qkv_proj", "Wqkv")
_MOST_LAYERS = 2_000
_CHOSEN = ("num_experts_per_tok", "experts_per_token", "top_k")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder; parameters are counts, not bytes.

    Attributes:
        d_mlp: width of an MLP, all experts of a token together.
        block_parameters: of all blocks together; ``largest_block``: of the largest.
        other_parameters: embeddings, final norm and unembedding, what is tied counted once.
        active_parameters: what the matrix products of one token meet: of experts only the chosen.
        windows: keys a query may see in each layer; ``None`` where attention is global.
        joint_qkv: whether queries, keys and values come from one matrix. ``TransformerBridge`` then keeps the
            last pattern of every layer.
        tied_parameters: of an unembedding that shares its numbers with the embedding; ``HookedTransformer``
            holds them a second time.
        softcap: whether the logits go through one.
        quantised: how the configuration says that its weights are quantised; empty for not at all.
        stored_dtype: what the files hold, as the configuration has it; empty where it does not say.
    """

    name: str
    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    block_parameters: int
    largest_block: int
    other_parameters: int
    active_parameters: int
    windows: tuple[int | None, ...]
    joint_qkv: bool = False
    tied_parameters: int = 0
    softcap: bool = False
    quantised: str = ""
    stored_dtype: str = ""

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.block_parameters + self.other_parameters


def model_shape(source: str | Path | PreTrainedConfig, revision: str | None = None) -> ModelShape:
    """Sizes of a model from its configuration.

    The parameters are counted on a model without storage (torch's ``meta`` device).

    Args:
        source: ``"tiny"``, a model name, a folder that holds a ``config.json`` (weights need not be there),
            or a ``transformers`` configuration.

    Raises:
        InputError: for a source without a configuration, or one that is no decoder language model's.

    Example:
        >>> shape = model_shape("tiny")
        >>> shape.n_layers, shape.d_model, shape.parameters > 10**6
        (10, 112, True)
    """
    name, config = _configuration(source, revision)
    refuse_encoder(config, name)
    try:
        return _shape(name, config)
    except InputError:
        raise
    except Exception as error:  # transformers raises what it likes on a configuration that does not fit
        raise InputError(
            f"{name}: no decoder language model can be made of its configuration ({one_line(error, 160)}); "
            "give one whose architecture ends in ForCausalLM or LMHeadModel"
        ) from error


def _shape(name: str, config: PreTrainedConfig) -> ModelShape:
    sizes = config.get_text_config(decoder=True)
    n_layers = getattr(sizes, "num_hidden_layers", None)
    if n_layers and not 1 <= n_layers <= _MOST_LAYERS:  # blocks without storage take time, too
        raise InputError(f"{name}: a configuration of {n_layers} layers; a plan is for 1 to {_MOST_LAYERS:,}")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    if not (getattr(sizes, "num_attention_heads", None) and n_layers):
        raise InputError(f"{name}: its configuration has no attention heads or no layers: nothing to profile")
    blocks = _blocks(model, int(n_layers), name)
    in_blocks = [_count(block) for block in blocks]
    everything = _count(model)
    if not everything:
        raise InputError(f"{name}: its configuration comes to no parameters at all: nothing to profile")
    experts, chosen = _first(sizes, _EXPERTS) or 0, _first(sizes, _CHOSEN) or 0
    idle = _expert_parameters(model) * (1.0 - chosen / experts) if experts and chosen else 0.0
    d_model, n_heads = int(sizes.hidden_size), int(sizes.num_attention_heads)
    width = int(_first(sizes, _MLP_WIDTHS) or 4 * d_model)
    return ModelShape(
        name=name,
        n_layers=len(blocks),
        n_heads=n_heads,
        n_key_value_heads=int(getattr(sizes, "num_key_value_heads", None) or n_heads),
        d_model=d_model,
        d_head=int(getattr(sizes, "head_dim", None) or d_model // n_heads),
        d_mlp=width * int(chosen) if experts and chosen else width,
        d_vocab=int(sizes.vocab_size),
        n_ctx=int(getattr(sizes, "max_position_embeddings", None) or 2**31),
        block_parameters=sum(in_blocks),
        largest_block=max(in_blocks),
        other_parameters=everything - sum(in_blocks),
        active_parameters=int(sum(in_blocks) - idle + d_model * sizes.vocab_size),
        windows=_windows(sizes, len(blocks)),
        joint_qkv=any(part in name for name, _ in model.named_parameters() for part in _JOINT),
        tied_parameters=_tied(model),
        softcap=bool(getattr(sizes, "final_logit_softcapping", None)),
        quantised=_quantised(config),
        stored_dtype=str(getattr(config, "dtype", None) or "").removeprefix("torch."),
    )


def loaded_shape(model: Model) -> ModelShape:
    """Sizes of a model that is there, as its class states them.

    Of experts all are counted as active: such a shape is for memory, not for time.
    """
    facts, cfg = model_facts(model), model.cfg
    blocks = [_count(block) for block in model.blocks]
    everything = _count(as_module(model))
    chosen = getattr(cfg, "experts_per_token", None) if getattr(cfg, "num_experts", None) else None
    return ModelShape(
        name=facts.name,
        n_layers=facts.n_layers,
        n_heads=facts.n_heads,
        n_key_value_heads=getattr(cfg, "n_key_value_heads", None) or facts.n_heads,
        d_model=facts.d_model,
        d_head=cfg.d_head,
        d_mlp=(cfg.d_mlp or 4 * facts.d_model) * (chosen or 1),
        d_vocab=facts.d_vocab,
        n_ctx=facts.n_ctx,
        block_parameters=sum(blocks),
        largest_block=max(blocks),
        other_parameters=max(0, everything - sum(blocks)),
        active_parameters=everything,
        windows=facts.windows,
        joint_qkv=any(name.startswith("blocks.0.attn.qkv") for name in model.hook_dict),
        softcap=(getattr(cfg, "output_logits_soft_cap", None) or 0) > 0,
    )


def _configuration(
    source: str | Path | PreTrainedConfig, revision: str | None
) -> tuple[str, PreTrainedConfig]:
    if isinstance(source, PreTrainedConfig):
        return str(source.name_or_path or source.model_type), source
    if not isinstance(source, str | Path):
        raise InputError(
            f"a plan is made from a name, a folder or a configuration, not a {type(source).__name__}"
        )
    name = str(source)
    where = weights_folder() if name == "tiny" else Path(name).expanduser()
    refuse_revision(name, where, revision)
    if where.is_dir() and not (where / "config.json").is_file():
        raise InputError(f"{name}: no config.json in this folder; give a Hugging Face model folder")
    if not where.is_dir() and (where.is_file() or name.startswith((".", "/", "~"))):
        raise InputError(f"{name}: not a folder; give a folder with a config.json or a model name")
    if where.is_dir():
        refuse_too_deep(where)
    options: dict[str, Any] = {"trust_remote_code": False}
    try:
        if where.is_dir():
            return name, AutoConfig.from_pretrained(where, local_files_only=True, **options)
        with hub_or_cache():
            return name, AutoConfig.from_pretrained(name, revision=revision, **options)
    except Exception as error:  # missing, broken, of an unknown type, behind no network
        raise InputError(
            f"{name}: its configuration could not be read ({one_line(error, 160)}); write the config.json "
            "into a folder and give that"
        ) from error


def _blocks(model: nn.Module, n_layers: int, name: str) -> list[nn.Module]:
    """The largest list of as many modules as there are layers."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    if not lists:
        raise InputError(f"{name}: no list of {n_layers} blocks; a plan is for decoders of equal blocks")
    return list(max(lists, key=_count))


def _tied(model: Any) -> int:
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None or unembedding is None or unembedding.weight is not embedding.weight:
        return 0
    return unembedding.weight.numel()


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _quantised(config: Any) -> str:
    told = getattr(config, "quantization_config", None) or {}
    method = told.get("quant_method", "some way") if isinstance(told, dict) else told.quant_method
    return str(getattr(method, "value", method)) if told else ""


def _expert_parameters(model: nn.Module) -> int:
    """Of the experts that a router chooses from; a shared expert is always used."""
    return sum(parameter.numel() for name, parameter in model.named_parameters() if ".experts." in name)


def _first(config: Any, names: tuple[str, ...]) -> Any:
    return next((value for name in names if (value := getattr(config, name, None))), None)


def _windows(config: Any, n_layers: int) -> tuple[int | None, ...]:
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    types = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if types is None:
        types = ["local" if window and getattr(config, "use_sliding_window", True) else "global"] * n_layers
    return tuple(window if kind in ("sliding_attention", "local") else None for kind in types)
