"""What a model must be before it is loaded, and what its loaders may do.

A model is a decoder. Its folder holds weights as safetensors that fit into the memory of this machine, and
no adapter that would be left out in silence. Loaders read tensors and no pickles, run no code that the user
has not asked for, and make up no weights.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch
from torch import nn
from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, modeling_utils
from transformers.utils.hub import cached_file

from mcr_lens.errors import InputError, one_line
from mcr_lens.host import cuda_devices, free_memory, host_memory, in_words
from mcr_lens.models.backend import Model, as_module, backend_of, has_hooked_transformer
from mcr_lens.tiny import checkpoint_steps, weights_folder

__all__ = [
    "bundled_step",
    "check_device",
    "complete_weights",
    "empty_model",
    "has_tokenizer",
    "model_folder",
    "no_decoder",
    "refuse_adapter",
    "refuse_encoder",
    "refuse_folder",
    "refuse_unknown",
    "refuse_unsuited",
    "tensors_only",
]

_MOST_LAYERS = 2_000
_ADAPTER = "adapter_config.json"
# What cannot be had is no adapter: the loader says what is wrong with the name.
_WHERE_IT_CAN_BE_HAD: dict[str, Any] = {
    "_raise_exceptions_for_gated_repo": False,
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}
# Options with which weights need not all be in memory, or are there already.
_PLACED_ELSEWHERE = (
    "device_map", "hf_model", "quantization_config", "load_in_4bit", "load_in_8bit", "max_memory",
)  # fmt: skip
# Files of which a tokenizer is made.
_TOKENIZERS = ("tokenizer.json", "*.model", "vocab*", "*vocab", "*.tiktoken", "tokenization*.py")
# The least that a quantised weight takes.
_QUANTISED_BYTES = 0.125


def model_folder(source: str, revision: str | None = None) -> Path | None:
    """The folder of a local model; ``None`` for a name on the hub.

    Raises:
        InputError: for a path that is no model folder, an adapter, and a revision that a local model does
            not have.
    """
    if not source.strip():
        raise InputError("the model's name is empty: use 'tiny', a model name or a Hugging Face folder")
    if source == "tiny":
        if revision is not None:
            bundled_step(revision)
        return weights_folder()
    try:
        folder = Path(source).expanduser()
        exists = folder.exists()
    except (OSError, RuntimeError) as error:  # a name too long, the home of nobody
        reason = one_line(error, 80)
        raise InputError(f"{source[:80]!r}: no model name or folder ({reason}); try 'tiny'") from error
    if not exists and not source.startswith((".", "/", "~")):
        return None
    if exists and revision is not None:
        raise InputError(f"revision {revision!r}: {source} has none; revisions are those of names on the hub")
    if not folder.is_dir():
        raise InputError(f"{source}: not a folder; give a Hugging Face model folder or a model name")
    if (folder / _ADAPTER).is_file():
        raise _adapter(source)
    if not (folder / "config.json").is_file():
        raise InputError(f"{source}: no config.json in this folder; give a Hugging Face model folder")
    return folder


def refuse_adapter(name: str, revision: str | None = None) -> None:
    """Refuse a name on the hub whose files are an adapter: without peft it would be left out in silence."""
    if cached_file(name, _ADAPTER, revision=revision, **_WHERE_IT_CAN_BE_HAD) is not None:
        raise _adapter(name)


def _adapter(source: str) -> InputError:
    return InputError(
        f"{source}: {_ADAPTER}: it holds an adapter, which would be left out; merge it into its base model "
        "(pip install peft; merge_and_unload), save that, and load the new folder"
    )


def bundled_step(revision: str) -> int:
    """The training step of a revision ``"step<N>"`` of the bundled model."""
    steps = {f"step{step}": step for step in checkpoint_steps()}
    if revision not in steps:
        raise InputError(f"revision {revision!r}: tiny has {', '.join(steps)}")
    return steps[revision]


def refuse_folder(folder: Path, options: Mapping[str, Any]) -> None:
    """Refuse a folder by what its files say, before its weights are read.

    Raises:
        InputError: for an encoder, pickled weights, or more weights than this machine has memory for.
    """
    # Left out, transformers would ask on a terminal whether to run the folder's code.
    trust_remote_code = bool(options.get("trust_remote_code"))
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    refuse_encoder(config, str(folder))
    if options.get("backend", "bridge") == "bridge":
        refuse_unknown(config, str(folder))
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickled and options.get("hf_model") is None and not list(folder.glob("model*.safetensors*")):
        raise InputError(
            f"{folder}: could not be loaded safely: its weights are pickled ({pickled[0]}), which can run "
            "code when read; if you trust them, convert them to model.safetensors (save_pretrained of "
            "transformers)"
        )
    needs_tokenizer = options.get("backend", "bridge") == "bridge" and options.get("tokenizer") is None
    if needs_tokenizer and not has_tokenizer(folder):
        raise InputError(
            f"{folder}: the folder has no tokenizer: pass load_model tokenizer=..., such as "
            "transformers.AutoTokenizer.from_pretrained of the model that it was made from"
        )
    if not trust_remote_code and all(options.get(name) is None for name in _PLACED_ELSEWHERE):
        _refuse_too_large(folder, config, options["dtype"])


def has_tokenizer(folder: Path) -> bool:
    """Does a folder hold a file that a tokenizer can be made of?"""
    return any(path for name in _TOKENIZERS for path in folder.glob(name))


def refuse_unknown(config: PreTrainedConfig, name: str) -> None:
    """Refuse a configuration whose architecture TransformerLens's bridge does not know."""
    try:
        determine_architecture_from_hf_config(config)
    except ValueError as error:
        architecture = ", ".join(config.architectures or ()) or config.model_type
        raise InputError(
            f"{name}: TransformerLens {version('transformer-lens')} does not know {architecture}; another "
            "version of transformer-lens may"
        ) from error


def refuse_encoder(config: PreTrainedConfig, name: str, architecture: str | None = None) -> None:
    """Refuse a configuration of an encoder; one that names no architecture may be a decoder's."""
    named = config.architectures if isinstance(config.architectures, list) else []
    kinds = [kind for kind in ([architecture] if architecture else named) if isinstance(kind, str)]
    # A decoder that also sees pictures generates on a condition, as an encoder-decoder does.
    words = ("CausalLM", "LMHead", "ForConditionalGeneration")
    is_decoder = not kinds or any(word in kind for kind in kinds for word in words)
    if config.is_encoder_decoder or not is_decoder:
        raise no_decoder(name, ", ".join(kinds) or config.model_type)


def refuse_unsuited(model: Model, name: str) -> None:
    """Refuse a loaded model that is an encoder, or whose weights have no values."""
    if backend_of(model) == "bridge":
        refuse_encoder(model.original_model.config, name, type(model.original_model).__name__)
    elif model.cfg.attention_dir != "causal":
        raise no_decoder(name, model.cfg.original_architecture or "HookedTransformer")
    # A tensor on torch's meta device has a shape and no numbers, unless accelerate brings them in time.
    module = as_module(model)
    is_offloaded = any(hasattr(part, "_hf_hook") for part in module.modules())
    empty = [key for key, parameter in module.named_parameters() if parameter.is_meta]
    if empty and not is_offloaded:
        raise InputError(
            f"{name}: {empty[0]} has no values (device 'meta'): load the model on 'cpu', or with device_map"
        )


def no_decoder(name: str, architecture: str) -> InputError:
    """The error for a model of another kind."""
    return InputError(
        f"{name}: {architecture} is not a decoder language model; "
        "give one whose architecture ends in ForCausalLM or LMHeadModel"
    )


def check_device(device: str | torch.device | None) -> None:
    """Raise ``InputError`` for a device that is not here, and for ``"meta"``."""
    try:
        is_meta = torch.empty(0, device=device).is_meta
    except (RuntimeError, AssertionError) as error:
        reason = one_line(error, 120)
        raise InputError(f"device {str(device)!r} cannot be used here ({reason}); try 'cpu'") from error
    if is_meta:
        raise InputError("device 'meta' holds no numbers: use 'cpu' or an accelerator")


def empty_model(config: PreTrainedConfig) -> nn.Module:
    """The model of a configuration on torch's meta device: shapes without storage, in milliseconds."""
    layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > _MOST_LAYERS:  # modules without storage take time, too
        raise InputError(
            f"a configuration of {layers:,} layers, more than {_MOST_LAYERS:,}: mend config.json"
        )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _refuse_too_large(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> None:
    """Refuse a folder whose weights need more memory than host, swap space and devices have free together."""
    try:
        model = empty_model(config)
    except InputError:
        raise
    except Exception:  # sizes that fit no architecture raise anything; the loader says what is wrong
        return
    size = _QUANTISED_BYTES if getattr(config, "quantization_config", None) else dtype.itemsize
    # A buffer can be the largest tensor of all: a causal mask of context x context.
    needed = size * sum(p.numel() for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    free = host_memory() + psutil.swap_memory().free + sum(map(free_memory, cuda_devices()))
    if needed > free:
        raise InputError(
            f"{folder}: its config.json asks for weights of at least {in_words(needed)} in "
            f"{str(dtype).removeprefix('torch.')}, and {in_words(free)} are free here: use a smaller dtype "
            "or device_map='auto'"
        )


@contextlib.contextmanager
def tensors_only() -> Iterator[None]:
    """Around the loaders of other libraries: no file is unpickled beyond plain tensors, no code is fetched.

    TransformerLens reads the weights of some names with ``torch.load(weights_only=False)``, and its
    ``HookedTransformer`` sets ``trust_remote_code=True`` for a list of names by itself.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}))
        os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # torch takes only one of the two
        if has_hooked_transformer():
            names = "transformer_lens.loading_from_pretrained.NEED_REMOTE_CODE_MODELS"
            stack.enter_context(mock.patch(names, ()))
        yield


def complete_weights() -> contextlib.AbstractContextManager[Any]:
    """Around the loaders of other libraries: weights that the files lack are refused.

    Transformers draws them at random and only logs it; what is measured of such a model means nothing.

    Raises:
        InputError: naming the first missing weights.
    """
    # Where transformers says what the files held; another version may say it elsewhere.
    report: Any = getattr(modeling_utils, "log_state_dict_report", None)

    def refuse_missing(*args: Any, **options: Any) -> None:
        missing = sorted(options["loading_info"].missing_keys)
        if missing:
            raise InputError(
                f"{options['pretrained_model_name_or_path']}: the files lack {', '.join(missing[:3])} "
                f"({len(missing)} in all), which would be random numbers; download the model again, or mend "
                "its config.json"
            )
        report(*args, **options)

    return mock.patch.object(modeling_utils, "log_state_dict_report", refuse_missing, create=True)
