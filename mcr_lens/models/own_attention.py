"""Does the bridge compute the attention that the Hugging Face model has?

``TransformerBridge`` computes the attention of most architectures a second time, step by step, so that its
hooks fire. Where that copy differs from the original every hook agrees with every other one, and with the
logits, but all of them belong to another model. The original module is still there, and can be asked.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mcr_lens.errors import one_line
from mcr_lens.models.backend import Model, backend_of

__all__ = ["AttentionCheck"]

_CACHE = ("past_key_values", "past_key_value", "layer_past", "use_cache", "cache_position")


class AttentionCheck:
    """Follows one forward pass of a bridge and runs each original attention module on what its copy got.

    At once, in the copy's own place: later the weights of an offloaded block would be gone.
    """

    def __init__(self, model: Model) -> None:
        self._modules: dict[int, Any] = {}
        # Folding changes what the copy reads and not what the original reads.
        if backend_of(model) == "bridge" and not getattr(model, "compatibility_mode", False):
            modules = {layer: getattr(block, "attn", None) for layer, block in enumerate(model.blocks)}
            self._modules = {
                layer: module
                for layer, module in modules.items()
                if getattr(module, "original_component", None) is not None
            }
        self._errors: dict[int, float] = {}
        self._unasked: dict[int, str] = {}
        self._hooks = ExitStack()

    def __enter__(self) -> "AttentionCheck":
        for layer, module in self._modules.items():
            handle = module.register_forward_hook(partial(self._compare, layer), with_kwargs=True)
            self._hooks.callback(handle.remove)
        return self

    def __exit__(self, *raised: object) -> None:
        self._hooks.close()

    def failed(self, tolerance: float) -> dict[str, str]:
        """``own_attention`` where a layer differs, ``asked_attention`` where the original cannot be run."""
        failed = {}
        wrong = {layer: error for layer, error in self._errors.items() if not error <= tolerance}
        for layer, error in list(wrong.items())[:1]:
            failed["own_attention"] = (
                f"the attention that TransformerLens computes in block {layer} differs from the Hugging Face "
                f"module's by {error:.2g}; another version of transformer-lens, or "
                "backend='hooked_transformer', may get it right"
            )
        for layer, reason in list(self._unasked.items())[:1]:
            failed["asked_attention"] = f"the attention of block {layer} could not be compared ({reason})"
        return failed

    def _compare(
        self, layer: int, module: Any, args: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        # With a cache the keys would be appended a second time.
        named = {name: value for name, value in named.items() if name not in _CACHE}
        try:
            expected = _write(module.original_component(*args, **named)).float()
        except Exception as error:  # a module of any library, perhaps made to be called otherwise
            self._unasked[layer] = f"{type(error).__name__}: {one_line(error, 120)}"
            return
        # A layer that writes nothing is right, too.
        size = expected.norm().clamp(min=torch.finfo(torch.float32).tiny)
        self._errors[layer] = float((_write(output).float() - expected).norm() / size)


def _write(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
