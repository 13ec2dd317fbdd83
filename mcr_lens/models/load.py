"""``load_model``: a name, a folder or a model in memory, to a model whose hooks can be trusted."""

import contextlib
import logging
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from mcr_lens.errors import InputError, one_line
from mcr_lens.models import hooked_transformer
from mcr_lens.models.backend import HookedTransformer, Model, backend_of, check_backend
from mcr_lens.models.hub import hub_or_cache
from mcr_lens.models.info import model_facts, record_origin
from mcr_lens.models.load_checks import (
    bundled_step,
    check_device,
    complete_weights,
    model_folder,
    no_decoder,
    refuse_adapter,
    refuse_folder,
    refuse_unsuited,
    tensors_only,
)
from mcr_lens.models.passes import follow
from mcr_lens.tiny import write_checkpoint
from mcr_lens.validate import did_you_mean

__all__ = ["load_model"]

_DTYPES = ("float32", "bfloat16", "float16")


def load_model(
    source: Any,
    *,
    backend: Literal["auto", "hooked_transformer", "bridge"] = "auto",
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    **kwargs: Any,
) -> Model:
    """A TransformerLens model with raw weights, checked once.

    Args:
        source: ``"tiny"`` (bundled), an official name such as ``"gpt2"`` or ``"EleutherAI/pythia-410m"``,
            a local Hugging Face folder (weights and tokenizer), or a ``HookedTransformer`` or
            ``TransformerBridge`` that is already there (returned as it is).
        backend: ``"auto"`` takes ``HookedTransformer`` where it is installed and supports the name,
            else ``TransformerBridge``; folders load through the bridge unless told otherwise.
        revision: branch, tag or commit on the hub, such as ``"step1000"``; of ``"tiny"`` the training step of
            a bundled checkpoint, such as ``"step512"``.
        dtype: ``"float32"`` (default), ``"bfloat16"``, ``"float16"``.
        device_map: Hugging Face placement over several devices (bridge only).
        **kwargs: handed to the backend's own loader; ``trust_remote_code=True`` among them lets a model
            bring code of its own, which is never run otherwise.

    Without a network a name is looked for in the local cache alone, at once. Weights of a folder must be
    safetensors; of what the hub has pickled, nothing but plain tensors is read.

    Raises:
        InputError: for a source that cannot be had, a backend that is not installed or cannot load
            it, an encoder, an unknown dtype, a folder with pickled weights, one whose configuration asks for
            more memory than there is, or files that lack some of the weights.
    """
    check_backend(backend)
    if not isinstance(source, str | Path):
        if backend not in ("auto", backend_of(source)):
            raise InputError(
                f"the model given is a {backend_of(source)}, not a {backend}: load it by name instead"
            )
        refuse_unsuited(source, type(source).__name__)  # its weights may have gone since it was checked
        facts = model_facts(source)
        facts.require("batch_mates", "anything measured")
        follow(source, facts.failed_checks)
        return source
    check_device(device)
    options = {"dtype": _dtype(dtype), "device": device, **kwargs}
    if device_map is not None:
        if backend == "hooked_transformer":
            raise InputError("device_map works through the bridge: use backend='bridge'")
        options |= {"device_map": device_map}
        del options["device"]
        backend = "bridge"
    name = str(source)
    model = _load(name, backend, revision, options)
    if str(model.cfg.device) == "meta":  # offloaded to disk as a whole: it computes on the CPU
        model.cfg.device = "cpu"
    if name == "tiny":  # it is a Qwen2 by its configuration, but every text that it was trained on has a BOS
        model.cfg.default_prepend_bos = True
    facts = record_origin(model, name, revision, kwargs)
    for check in ("own_attention", "batch_mates"):
        facts.require(check, "anything measured")
    follow(model, facts.failed_checks)
    return model


def _load(name: str, backend: str, revision: str | None, options: dict[str, Any]) -> Model:
    """The model of a folder, of a bundled checkpoint or of a name on the hub."""
    folder = model_folder(name, revision)
    if backend == "auto":
        backend = hooked_transformer.default_backend(name)
    if name == "tiny" and revision is not None:
        with tempfile.TemporaryDirectory() as above:
            folder = write_checkpoint(bundled_step(revision), Path(above) / "tiny")
            return _from_folder(folder, backend, options)
    if folder is not None:
        return _from_folder(folder, backend, options)
    if revision is not None:
        options = {**options, "revision": revision}
    if backend == "hooked_transformer" and not hooked_transformer.supports_name(name):
        raise InputError(f"{name}: not a HookedTransformer name; use backend='bridge'")
    with hub_or_cache() as silence, _plain_errors(name, silence), _loaders():
        refuse_adapter(name, revision)
        if backend == "hooked_transformer":
            assert HookedTransformer is not None
            # Left out, transformers would ask on a terminal whether to run a repository's code.
            options = {"trust_remote_code": False, **options}
            # Centring would change the residual norms of LayerNorm models.
            return HookedTransformer.from_pretrained_no_processing(name, **options)
        return TransformerBridge.boot_transformers(name, **options)


def _from_folder(folder: Path, backend: str, options: dict[str, Any]) -> Model:
    with _plain_errors(str(folder)), _loaders():
        refuse_folder(folder, {**options, "backend": backend})
        if backend == "hooked_transformer":
            return hooked_transformer.from_folder(folder, options)
        return TransformerBridge.boot_transformers(str(folder), **options)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if dtype is not None and (not isinstance(dtype, str) or dtype not in _DTYPES):
        raise InputError(f"dtype {dtype!r}: use one of {', '.join(_DTYPES)}")
    return getattr(torch, dtype or "float32")


@contextlib.contextmanager
def _plain_errors(source: str, silence: str | None = None) -> Iterator[None]:
    """One line that names the way out, for the many ways in which loading fails."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # three libraries and their file formats raise what they like
        words, failure = str(error), f"{source}: could not be loaded"
        said = one_line(error, 200 if silence else 400) or "it does not say why"
        reason = f"({type(error).__name__}: {said})"
        if "HookedEncoder" in words:
            raise no_decoder(source, "its architecture") from error
        if "trust_remote_code" in words:
            message = (
                f"{failure}: it brings custom code, which would be run here; pass load_model "
                "trust_remote_code=True where you trust it"
            )
        elif Path(source).is_dir():
            way_out = "mend the folder"
            if "tokenizer" in words:
                way_out = "mend its tokenizer, or pass load_model tokenizer=..."
            elif _raised_by(error) == "transformer_lens":
                way_out = (
                    "TransformerLens does not take this variant of the architecture; another version may"
                )
            message = f"{failure} {reason}; {way_out}"
        else:
            names = ["tiny", *hooked_transformer.official_names()]
            place = f" {reason};"
            if silence:  # a client's own words about that are long
                place = f" from the local cache, and {silence}, or"
            guess = "" if source in names else did_you_mean(source, names)
            message = (
                f"{failure}{place} use 'tiny', a local Hugging Face folder, or a name that "
                f"TransformerLens supports{guess}"
            )
        raise InputError(message) from error


def _raised_by(error: Exception) -> str | None:
    """The library whose own code an error came out of, deepest down."""
    frames = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    libraries = (name.partition(".")[0] for name in frames)
    ours = ("transformers", "transformer_lens", "safetensors", "huggingface_hub", "tokenizers")
    return next(reversed([name for name in libraries if name in ours]), None)


@contextlib.contextmanager
def _loaders() -> Iterator[None]:
    """Around the loaders of other libraries: tensors alone, complete, and without bars and deprecations."""
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    # Without a network the hub's client tells of each of its many attempts.
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), tensors_only(), complete_weights():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        hub.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
