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
from mcr_lens.hub import hub_or_cache
from mcr_lens.models import hooked
from mcr_lens.models.backend import Backend, Model, backend_of, check_backend, has_hooked_transformer
from mcr_lens.models.facts import model_facts, record_origin, require
from mcr_lens.models.passes import follow
from mcr_lens.models.revisions import bundled_step, refuse_revision
from mcr_lens.models.room import refuse_too_deep, refuse_too_large
from mcr_lens.models.suited import refuse_encoder_folder, refuse_unsuited
from mcr_lens.models.trust import refuse_pickles, tensors_only
from mcr_lens.models.whole_weights import whole_weights
from mcr_lens.tiny import weights_folder, write_checkpoint

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
        refuse_unsuited(source, type(source).__name__)
        follow(source, model_facts(source).failed_checks)
        return source
    if device_map is not None and backend == "hooked_transformer":
        raise InputError("device_map works through the bridge: use backend='bridge'")
    options = {"dtype": _dtype(dtype), "device": _device(device), **kwargs}
    if device_map is not None:
        options |= {"device_map": device_map}
        del options["device"]
        backend = "bridge"
    name, model = _load(str(source), backend, revision, options)
    if str(model.cfg.device) == "meta":  # offloaded to disk as a whole: it computes on the CPU
        model.cfg.device = "cpu"
    refuse_unsuited(model, name)
    record_origin(model, name, revision, kwargs)
    require(model, "own_attention", "anything measured")
    follow(model, model_facts(model).failed_checks)
    return model


def _load(source: str, backend: str, revision: str | None, options: dict[str, Any]) -> tuple[str, Model]:
    """The name to record, and the model."""
    folder = _path(source)
    refuse_revision(source, folder, revision)
    if source == "tiny":
        chosen: Backend = "hooked_transformer" if has_hooked_transformer() else "bridge"
        return "tiny", _bundled(revision, chosen if backend == "auto" else backend, options)
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
    with hub_or_cache() as silence, _plain_errors(source, silence), _quiet(), tensors_only(), whole_weights():
        if use_hooked:
            # Left out, transformers would ask on a terminal whether to run a repository's code.
            return source, hooked.from_name(source, {"trust_remote_code": False, **options})
        return source, TransformerBridge.boot_transformers(source, **options)


def _path(source: str) -> Path:
    """The source as a path, there or not."""
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, the home of nobody
        reason = one_line(error, 80)
        raise InputError(f"{source[:80]!r}: no model name or folder ({reason}); try 'tiny'") from error
    if not source.strip():
        raise InputError("the model's name is empty: use 'tiny', a model name or a Hugging Face folder")
    return path


def _bundled(revision: str | None, backend: str, options: dict[str, Any]) -> Model:
    """The bundled model, or its checkpoint of a revision ``"step<N>"``."""
    if revision is None:
        return _from_folder(weights_folder(), backend, options)
    step = bundled_step(revision)
    with tempfile.TemporaryDirectory() as above:
        return _from_folder(write_checkpoint(step, Path(above) / "tiny"), backend, options)


def _from_folder(folder: Path, backend: str, options: dict[str, Any]) -> Model:
    refuse_too_deep(folder)
    with _plain_errors(str(folder)):
        config = refuse_encoder_folder(folder, bool(options.get("trust_remote_code")))
    if options.get("hf_model") is None:
        refuse_pickles(folder)
    with _quiet():
        refuse_too_large(folder, config, options)
    with _plain_errors(str(folder)), _quiet(), tensors_only(), whole_weights():
        if backend == "hooked_transformer":
            return hooked.from_folder(folder, options)
        return TransformerBridge.boot_transformers(str(folder), **options)


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
        if torch.empty(0, device=device).is_meta:
            raise InputError("device 'meta' holds no numbers: use 'cpu' or an accelerator")
    except (RuntimeError, AssertionError) as error:
        reason = one_line(error, 120)
        raise InputError(f"device {str(device)!r} cannot be used here ({reason}); try 'cpu'") from error
    return device


@contextlib.contextmanager
def _plain_errors(source: str, silence: str | None = None) -> Iterator[None]:
    """One line that names the way out, for the many ways in which loading fails."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # three libraries and their file formats raise what they like
        if "HookedEncoder" in str(error):
            raise InputError(
                f"{source}: not a decoder language model; give one whose architecture ends in ForCausalLM or "
                "LMHeadModel"
            ) from error
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{source}: could not be loaded: it brings custom code, which would be run here; pass "
                "load_model trust_remote_code=True where you trust it"
            ) from error
        reason = f"{type(error).__name__}: {one_line(error, 200 if silence else 400)}"
        if silence is not None:
            raise InputError(
                f"{source}: could not be loaded from the local cache, and {silence}, or use 'tiny' or a "
                f"local Hugging Face folder ({reason})"
            ) from error
        raise InputError(
            f"{source}: could not be loaded ({reason}); use 'tiny', a name that TransformerLens supports and "
            "that is in the local cache or reachable, or a local Hugging Face folder"
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
