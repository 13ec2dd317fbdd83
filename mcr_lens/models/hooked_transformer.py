"""Ways to a ``HookedTransformer``: which names it has, and how a Hugging Face folder becomes one."""

import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mcr_lens.errors import InputError, one_line
from mcr_lens.models.backend import Backend, HookedTransformer, Model, has_hooked_transformer, run
from mcr_lens.models.load_checks import has_tokenizer, refuse_unknown
from mcr_lens.models.unembed import logit_error

__all__ = ["default_backend", "from_folder", "supports_name"]

# Frequencies that do not depend on how long the prompt is: a short prompt shows whether they are right.
_CHECKED_ROTARY = ("default", "llama3", "yarn")


def official_names() -> list[str]:
    """The names that ``HookedTransformer`` knows; none where TransformerLens has it no more."""
    return [] if HookedTransformer is None else _loading().OFFICIAL_MODEL_NAMES


def supports_name(name: str) -> bool:
    """True for an official name or alias of ``HookedTransformer``."""
    try:
        _loading().get_official_model_name(name)
    except ValueError:
        return False
    return True


def default_backend(name: str) -> Backend:
    """What ``backend="auto"`` takes for a name or folder."""
    if not has_hooked_transformer():
        return "bridge"
    is_official = name == "tiny" or (not Path(name).expanduser().is_dir() and supports_name(name))
    return "hooked_transformer" if is_official else "bridge"


def from_folder(folder: Path, options: dict[str, Any]) -> Model:
    """A ``HookedTransformer`` with the weights of a local folder.

    TransformerLens's own reading of the configuration and conversion of the weights; then the logits are
    compared with those of the Hugging Face model.

    Raises:
        InputError: for an architecture that TransformerLens does not read from a folder, and where what it
            makes of it is another function.
    """
    assert HookedTransformer is not None
    if unknown := sorted(set(options) - {"dtype", "device", "tokenizer"}):
        raise InputError(f"{', '.join(unknown)}: no option of this loader; use backend='bridge'")
    dtype = options.get("dtype", torch.float32)
    source = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    kind = (getattr(source.config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind not in _CHECKED_ROTARY:
        raise InputError(f"rotary scaling {kind!r} has no conversion; use backend='bridge'")
    tokenizer = options.get("tokenizer")
    if tokenizer is None and has_tokenizer(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    try:
        config, weights = _converted(source, folder, dtype, options.get("device"))
        model = HookedTransformer(config, tokenizer=tokenizer, move_to_device=False)
        model.load_and_process_state_dict(
            weights,
            fold_ln=False,
            center_writing_weights=False,
            center_unembed=False,
            fold_value_biases=False,
        )
    except InputError:
        raise
    except Exception as error:  # a conversion stumbles in many ways over a variant it was not written for
        raise InputError(
            f"{folder}: TransformerLens cannot make a HookedTransformer of it ({type(error).__name__}: "
            f"{one_line(error, 200)}); use backend='bridge'"
        ) from error
    model.to(str(config.device), print_details=False)
    model.eval()
    _refuse_another_function(model, source, folder)
    return model


def _converted(
    source: Any, folder: Path, dtype: torch.dtype, device: Any
) -> tuple[Any, dict[str, torch.Tensor]]:
    """TransformerLens's own configuration and weights of a model."""
    loading = _loading()
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "n_positions" in settings:  # what GPT-2's configurations no longer repeat, and TransformerLens reads
        settings.setdefault("n_ctx", settings["n_positions"])
    # It takes a folder, but guesses the architecture from a path in which the word "llama" or "gemma" occurs.
    with tempfile.TemporaryDirectory() as neutral:
        (Path(neutral) / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        try:
            config = loading.get_pretrained_model_config(
                neutral, device=None if device is None else str(device), dtype=dtype
            )
        except NotImplementedError as error:
            refuse_unknown(source.config, str(folder))  # the bridge would be no way out
            raise InputError(
                f"{folder}: TransformerLens builds no HookedTransformer of {source.config.architectures[0]} "
                "from a folder; use backend='bridge'"
            ) from error
        config.model_name, config.tokenizer_name = folder.name, None
        return config, loading.get_pretrained_state_dict(neutral, config, source)


def _refuse_another_function(model: Model, source: Any, folder: Path) -> None:
    """A conversion may leave out what it does not know: biases, windows, scaled positions."""
    window = getattr(source.config, "sliding_window", None) or 0
    length = min(model.cfg.n_ctx, window + 16)
    tokens = torch.arange(length)[None] % model.cfg.d_vocab
    with torch.no_grad():
        expected = source(tokens).logits
    # As everywhere else: asked plainly, it would take a padding id for padding.
    logits = run(model, tokens.to(model.cfg.device), [])
    error = logit_error(logits, expected)
    if not error <= (1e-3 if model.cfg.dtype == torch.float32 else 0.1):
        raise InputError(
            f"{folder}: TransformerLens's conversion makes another function of it (logits differ by "
            f"{error:.2g}); use backend='bridge'"
        )


def _loading() -> Any:
    """The module of TransformerLens 3 that reads configurations and converts weights."""
    return import_module("transformer_lens.loading_from_pretrained")
