"""Does the bridge compute the attention that the Hugging Face model has?

``TransformerBridge`` computes the attention of most architectures a second time, step by step, so that its
hooks fire. Where that copy differs from the original every hook agrees with every other one, and with the
logits, but all of them belong to another model. The original module is still there, and can be asked.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mcr_lens.errors import one_line
from mcr_lens.models.backend import Model, backend_of

__all__ = ["attention_check", "relative_error", "tolerance_of"]

_CACHE = ("past_key_values", "past_key_value", "layer_past", "use_cache", "cache_position")


def tolerance_of(tensor: Tensor) -> float:
    """The largest relative error that rounding in this dtype explains."""
    return 1e-4 if tensor.dtype in (torch.float32, torch.float64) else 0.05


def relative_error(actual: Tensor, expected: Tensor) -> Tensor:
    """``||actual - expected|| / ||expected||`` in float32, on the host; 0 where both are all zeros."""
    actual, expected = actual.float(), expected.float()
    size = expected.norm().clamp(min=torch.finfo(torch.float32).tiny)
    return ((actual - expected).norm() / size).cpu()


@contextmanager
def attention_check(model: Model) -> Iterator[dict[str, str]]:
    """Around one forward pass of a bridge: each original attention module runs on what its copy got.

    At once, in the copy's own place: later the weights of an offloaded block would be gone.

    Yields:
        What fails, of the first layer where it does: ``own_attention`` where the copy differs,
        ``asked_attention`` where the original cannot be run.
    """
    failed: dict[str, str] = {}

    def compare(layer: int, module: Any, args: Any, options: dict[str, Any], output: Any) -> None:
        # With a cache the keys would be appended a second time.
        options = {name: value for name, value in options.items() if name not in _CACHE}
        try:
            expected = _write(module.original_component(*args, **options))
        except Exception as error:  # a module of any library, perhaps made to be called otherwise
            reason = f"{type(error).__name__}: {one_line(error, 120)}"
            failed.setdefault(
                "asked_attention", f"the attention of block {layer} could not be compared ({reason})"
            )
            return
        error = float(relative_error(_write(output), expected))
        if not error <= tolerance_of(expected):
            failed.setdefault(
                "own_attention",
                f"the attention that TransformerLens computes in block {layer} differs from the Hugging Face "
                f"module's by {error:.2g}; another version of transformer-lens may get it right",
            )

    with ExitStack() as hooks:
        # Folding changes what the copy reads and not what the original reads.
        if backend_of(model) == "bridge" and not getattr(model, "compatibility_mode", False):
            for layer, block in enumerate(model.blocks):
                module: Any = getattr(block, "attn", None)
                if getattr(module, "original_component", None) is not None:
                    handle = module.register_forward_hook(partial(compare, layer), with_kwargs=True)
                    hooks.callback(handle.remove)
        yield failed


def _write(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple | list) else output
