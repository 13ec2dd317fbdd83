"""The one seam between the TransformerLens lines: what differs between the two model classes.

``HookedTransformer`` exists up to TransformerLens 3.9, ``TransformerBridge`` in 3.x and 4.x. Everything
else in the package talks to a model through hook names and the functions here.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from mcr_lens.errors import InputError, one_line

try:
    from transformer_lens import HookedTransformer  # type: ignore[attr-defined]
except ImportError:  # removed in TransformerLens 4
    HookedTransformer = None

__all__ = [
    "Backend",
    "Hook",
    "Model",
    "as_module",
    "backend_of",
    "check_backend",
    "checkpoint_labels",
    "evaluation_mode",
    "has_hooked_transformer",
    "new_cache",
    "run",
]

Backend = Literal["hooked_transformer", "bridge"]
Hook = tuple[str, Callable[..., Any]]
Model = Any  # a HookedTransformer or a TransformerBridge: they share hook names, not a base class


def has_hooked_transformer() -> bool:
    """True where the installed TransformerLens still has ``HookedTransformer``."""
    return HookedTransformer is not None


def check_backend(backend: object) -> None:
    """Raise ``InputError`` unless this is ``"auto"`` or the name of a backend that is installed."""
    if backend not in ("auto", "hooked_transformer", "bridge"):
        raise InputError(f"backend {backend!r}: use 'auto', 'hooked_transformer' or 'bridge'")
    if backend == "hooked_transformer" and not has_hooked_transformer():
        raise InputError(
            "HookedTransformer was removed in TransformerLens 4: use backend='bridge', "
            "or pip install 'transformer-lens<4'"
        )


def backend_of(model: Model) -> Backend:
    """Which of the two classes a model is.

    Raises:
        InputError: for anything else.
    """
    if HookedTransformer is not None and isinstance(model, HookedTransformer):
        return "hooked_transformer"
    if isinstance(model, TransformerBridge):
        return "bridge"
    raise InputError(
        f"{type(model).__name__} is not a HookedTransformer or a TransformerBridge; "
        "get one from mcr_lens.load_model"
    )


def checkpoint_labels(name: str) -> tuple[str, list[int]] | None:
    """Of a name whose checkpoints TransformerLens knows: its name on the hub, and their steps (or tokens).

    Raises:
        InputError: where TransformerLens would have to ask the hub and cannot.
    """
    if HookedTransformer is not None:
        loading: Any = import_module("transformer_lens.loading_from_pretrained")
        get_labels, resolve = loading.get_checkpoint_labels, loading.get_official_model_name
    else:
        registry = "transformer_lens.tools.model_registry"
        get_labels = import_module(f"{registry}.checkpoints").get_checkpoint_labels
        resolve = import_module(f"{registry}.registry_io").resolve_model_alias
    try:
        official = resolve(name) or name
        return official, list(get_labels(official)[0])
    except ValueError:
        return None
    except (ConnectionError, OSError) as error:
        reason = one_line(error, 200)
        raise InputError(f"{name}: the list of its checkpoints is on the hub ({reason})") from error


def new_cache(model: Model, batch: int) -> Any:
    """An empty KV cache for chunked prefill of ``batch`` prompts."""
    if backend_of(model) == "bridge":
        return DynamicCache(config=model.original_model.config)
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, batch)


def run(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    hooks: Sequence[Hook],
    *,
    cache: Any = None,
    blocks_only: bool = False,
) -> Tensor:
    """One forward pass with hooks, gradients off; returns the logits, or with ``blocks_only`` anything.

    Args:
        cache: a cache from ``new_cache`` that earlier chunks of the same prompts have filled.
        blocks_only: the logits are not needed; skips the unembedding where the backend can.
    """
    kwargs: dict[str, Any] = {}
    if backend_of(model) == "bridge":
        if cache is not None:
            kwargs = {"past_key_values": cache, "use_cache": True}
    else:
        if blocks_only:
            kwargs["stop_at_layer"] = model.cfg.n_layers
        if cache is not None:
            kwargs["past_kv_cache"] = cache
        if cache is not None or getattr(model.tokenizer, "padding_side", "right") == "left":
            # Without a mask it would guess one from the padding id, which may be the BOS or the EOS.
            kwargs["attention_mask"] = torch.ones_like(tokens)
    # inference_mode would forbid users' hooks to keep tensors for later arithmetic with gradients.
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=list(hooks), return_type="logits", **kwargs)


@contextlib.contextmanager
def evaluation_mode(model: Model) -> Iterator[None]:
    """Dropout off for the time being; each module's own mode comes back afterwards."""
    training = [module for module in as_module(model).modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def as_module(model: Model) -> nn.Module:
    """The module whose parameters and training mode are the model's own."""
    return model.original_model if backend_of(model) == "bridge" else model
