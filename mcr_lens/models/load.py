"""``load_model``: a name, a folder or a model in memory, to a model whose hooks can be trusted."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from mcr_lens.errors import InputError, one_line
from mcr_lens.models import hooked
from mcr_lens.models.backend import Backend, Model, backend_of, has_hooked_transformer
from mcr_lens.models.facts import model_facts, record_origin
from mcr_lens.tiny import checkpoint_steps, weights_folder, write_checkpoint

__all__ = ["load_model"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        **kwargs: handed to the backend's own loader.

    Raises:
        InputError: for a source that cannot be had, a backend that is not installed or cannot load
            it, an encoder, an unknown dtype.
    """
    if backend not in ("auto", "hooked_transformer", "bridge"):
        raise InputError(f"backend {backend!r}: use 'auto', 'hooked_transformer' or 'bridge'")
    if backend == "hooked_transformer" and not has_hooked_transformer():
        raise InputError(
            "HookedTransformer was removed in TransformerLens 4: use backend='bridge', "
            "or pip install 'transformer-lens<4'"
        )
    if not isinstance(source, str | Path):
        if backend not in ("auto", backend_of(source)):
            raise InputError(
                f"the model given is a {backend_of(source)}, not a {backend}: load it by name instead"
            )
        model_facts(source)
        return source
    if device_map is not None and backend == "hooked_transformer":
        raise InputError("device_map works through the bridge: use backend='bridge'")
    options = {"dtype": _dtype(dtype), "device": _device(device), **kwargs}
    if device_map is not None:
        options |= {"device_map": device_map}
        del options["device"]
        backend = "bridge"
    name, model = _load(str(source), backend, revision, options)
    record_origin(model, name, revision)
    model_facts(model)
    return model


def _load(source: str, backend: str, revision: str | None, options: dict[str, Any]) -> tuple[str, Model]:
    """The name to record, and the model."""
    if source == "tiny":
        chosen: Backend = "hooked_transformer" if has_hooked_transformer() else "bridge"
        return "tiny", _bundled(revision, chosen if backend == "auto" else backend, options)
    if revision is not None and Path(source).expanduser().exists():
        raise InputError(f"revision {revision!r}: {source} has none; revisions are those of names on the hub")
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{source}: no config.json in this folder; give a Hugging Face model folder")
        return str(source), _from_folder(folder, backend, options)
    if folder.is_file() or source.startswith((".", "/", "~")):
        raise InputError(f"{source}: not a folder; give a Hugging Face model folder or a model name")
    if revision is not None:
        options = {**options, "revision": revision}
    hooked_can = has_hooked_transformer() and hooked.supports_name(source)
    if backend == "hooked_transformer" and not hooked_can:
        raise InputError(f"{source}: not a HookedTransformer name; use backend='bridge'")
    use_hooked = hooked_can and backend != "bridge"
    with _plain_errors(source), _quiet():
        if use_hooked:
            return source, hooked.from_name(source, options)
        return source, TransformerBridge.boot_transformers(source, **options)


def _bundled(revision: str | None, backend: str, options: dict[str, Any]) -> Model:
    """The bundled model, or its checkpoint of a revision ``"step<N>"``."""
    if revision is None:
        return _from_folder(weights_folder(), backend, options)
    there = {f"step{step}": step for step in checkpoint_steps()}
    if revision not in there:
        raise InputError(f"revision {revision!r}: tiny has {', '.join(there)}")
    with tempfile.TemporaryDirectory() as above:
        return _from_folder(write_checkpoint(there[revision], Path(above) / "tiny"), backend, options)


def _from_folder(folder: Path, backend: str, options: dict[str, Any]) -> Model:
    _refuse_encoders(folder, bool(options.get("trust_remote_code")))
    with _plain_errors(str(folder)), _quiet():
        if backend == "hooked_transformer":
            return hooked.from_folder(folder, options)
        return TransformerBridge.boot_transformers(str(folder), **options)


def _refuse_encoders(folder: Path, trust_remote_code: bool) -> None:
    with _plain_errors(str(folder)):
        # Left out, it would ask on a terminal whether to run the folder's code.
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    names = config.architectures or ["(none named)"]
    if config.is_encoder_decoder or not any("CausalLM" in name or "LMHead" in name for name in names):
        raise InputError(
            f"{folder}: {', '.join(names)} is not a decoder language model; "
            "give one whose architecture ends in ForCausalLM or LMHeadModel"
        )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise InputError(f"dtype {dtype!r}: use one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _device(device: str | torch.device | None) -> str | torch.device | None:
    if device is None:
        return None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = one_line(error, 120)
        raise InputError(f"device {str(device)!r} cannot be used here ({reason}); try 'cpu'") from error
    return device


@contextlib.contextmanager
def _plain_errors(source: str) -> Iterator[None]:
    """One line that names the way out, for the many ways in which loading fails."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # three libraries and their file formats raise what they like
        reason = one_line(error, 400)
        raise InputError(
            f"{source}: could not be loaded ({type(error).__name__}: {reason}); use 'tiny', a name that "
            "TransformerLens supports and that is in the local cache or reachable, or a local "
            "Hugging Face folder (HF_HUB_OFFLINE=1 spares the wait where there is no network)"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Loading without the libraries' progress bars and deprecation notes; problems are raised."""
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    # Without a network the hub's client tells of each of its many attempts.
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        hub.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
