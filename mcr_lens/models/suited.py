"""Whether a model is one to measure: a decoder language model, with weights."""

from pathlib import Path

import transformers

from mcr_lens.errors import InputError
from mcr_lens.models.backend import Model, as_module, backend_of

__all__ = ["refuse_encoder", "refuse_encoder_folder", "refuse_unsuited"]


def refuse_encoder_folder(folder: Path, trust_remote_code: bool) -> transformers.PreTrainedConfig:
    """Refuse a folder by its configuration, which is returned, before its weights are read.

    Raises:
        InputError: for what its architectures say is no decoder; else as transformers, for a configuration
            that cannot be read.
    """
    # Left out, it would ask on a terminal whether to run the folder's code.
    config = transformers.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=trust_remote_code
    )
    names = config.architectures or ["(none named)"]
    if config.is_encoder_decoder or not any(map(_is_named_decoder, names)):
        raise _no_decoder(str(folder), ", ".join(names))
    return config


def refuse_encoder(config: transformers.PreTrainedConfig, name: str) -> None:
    """Refuse a configuration that says of itself that it is no decoder's; one that says nothing may be."""
    told = config.architectures  # a file may hold anything
    kinds = [kind for kind in told if isinstance(kind, str)] if isinstance(told, list) else []
    if config.is_encoder_decoder or (kinds and not any(map(_is_decoder, kinds))):
        raise _no_decoder(name, ", ".join(kinds) or config.model_type)


def refuse_unsuited(model: Model, name: str) -> None:
    """Refuse a model that is there: an encoder by its class, or one whose weights are not.

    Raises:
        InputError: naming what was found.
    """
    if backend_of(model) == "bridge":
        kind = type(model.original_model).__name__
        is_decoder = _is_decoder(kind) and not model.original_model.config.is_encoder_decoder
    else:
        kind = str(model.cfg.original_architecture or "HookedTransformer")
        is_decoder = model.cfg.attention_dir == "causal"
    if not is_decoder:
        raise _no_decoder(name, kind)
    module = as_module(model)
    # A tensor on torch's meta device has a shape and no numbers, unless accelerate brings them in time.
    is_offloaded = any(hasattr(part, "_hf_hook") for part in module.modules())
    empty = [key for key, value in module.named_parameters() if value.is_meta]
    if empty and not is_offloaded:
        raise InputError(
            f"{name}: {empty[0]} has no values (device 'meta'): load the model on 'cpu', or with device_map"
        )


def _is_decoder(architecture: str) -> bool:
    # A decoder that also sees pictures generates on a condition, as an encoder-decoder does.
    return _is_named_decoder(architecture) or architecture.endswith("ForConditionalGeneration")


def _is_named_decoder(architecture: str) -> bool:
    return "CausalLM" in architecture or "LMHead" in architecture


def _no_decoder(name: str, architecture: str) -> InputError:
    return InputError(
        f"{name}: {architecture} is not a decoder language model; "
        "give one whose architecture ends in ForCausalLM or LMHeadModel"
    )
