"""Does the bridge compute the attention that the Hugging Face model has?

``TransformerBridge`` computes the attention of most architectures a second time, step by step, so that its
hooks fire. Where that copy differs from the original every hook agrees with every other one, and with the
logits, but all of them belong to another model. The original module is still there, and can be asked.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mcr_lens.errors import one_line
from mcr_lens.models.backend import Model, backend_of

__all__ = ["AttentionCheck"]


class AttentionCheck:
    """Follows one forward pass of a bridge and runs each original attention module on what its copy got.

    At once, in the copy's own place: later the weights of an offloaded block would be gone.
    """

    def __init__(self, model: Model) -> None:
        # Folding changes what the copy reads and not what the original reads.
        compared = backend_of(model) == "bridge" and not getattr(model, "compatibility_mode", False)
        self._modules = dict(_attention_modules(model)) if compared else {}
        self._errors: dict[int, float] = {}
        self._unasked: dict[int, str] = {}
        self._listening = ExitStack()

    def __enter__(self) -> "AttentionCheck":
        for layer, module in self._modules.items():
            handle = module.register_forward_hook(partial(self._compare, layer), with_kwargs=True)
            self._listening.callback(handle.remove)
        return self

    def __exit__(self, *raised: object) -> None:
        self._listening.close()

    def failed(self, tolerance: float) -> dict[str, str]:
        """``own_attention`` where a layer differs, ``asked_attention`` where the original cannot be run."""
        found = {}
        wrong = {layer: error for layer, error in self._errors.items() if not error <= tolerance}
        if wrong:
            layer, error = next(iter(wrong.items()))
            found["own_attention"] = (
                f"the attention that TransformerLens computes in block {layer} differs from the Hugging Face "
                f"module's by {error:.2g}; another version of transformer-lens, or "
                "backend='hooked_transformer', may get it right"
            )
        if self._unasked:
            layer, why = next(iter(self._unasked.items()))
            found["asked_attention"] = f"the attention of block {layer} could not be compared ({why})"
        return found

    def _compare(
        self, layer: int, module: Any, args: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        # With a cache the keys would be appended a second time.
        named = {name: value for name, value in named.items() if not _is_cache(name)}
        try:
            expected = _write(module.original_component(*args, **named)).float()
        except Exception as error:  # a module of any library, perhaps made to be called otherwise
            self._unasked[layer] = f"{type(error).__name__}: {one_line(error, 120)}"
            return
        # A layer that writes nothing is right, too.
        size = expected.norm().clamp(min=torch.finfo(torch.float32).tiny)
        self._errors[layer] = float((_write(output).float() - expected).norm() / size)


def _attention_modules(model: Model) -> Iterator[tuple[int, Any]]:
    for layer, block in enumerate(model.blocks):
        module = getattr(block, "attn", None)
        if getattr(module, "original_component", None) is not None:
            yield layer, module


def _write(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _is_cache(name: str) -> bool:
    return name in ("past_key_values", "past_key_value", "layer_past", "use_cache", "cache_position")
