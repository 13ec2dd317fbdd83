"""Blocks whose weights wait on the host or on disk, and are brought in for their turn alone.

Accelerate's own offloading hangs on the ``forward`` of the Hugging Face modules, past which parts of
``TransformerBridge`` read weights directly: TransformerLens refuses it (3.9 and 4.3 for maps that mix CPU and
GPU, 3.9 for disk). Here the hooks are torch's own, on whole blocks, so both model classes can be used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mcr_lens.errors import InputError, one_line
from mcr_lens.models.backend import Model, as_module
from mcr_lens.models.load_checks import check_device

__all__ = ["offload"]


def offload(
    model: Model, device: str | torch.device | None = None, *, folder: str | Path | None = None
) -> Model:
    """Run a model on ``device`` while the weights of its blocks stay elsewhere; it is changed and returned.

    Each block's weights are copied to the device right before the block runs and dropped right after it, so
    that the device holds one block at a time. Embeddings, final norm and unembedding stay on the device.

    Args:
        model: from ``load_model``, with its weights in the host's memory (``device="cpu"``).
        device: where it is to run; where it is, if left out.
        folder: write the blocks into files here, and read each when its turn comes; else they stay in the
            host's memory.

    Between runs the parameters of the blocks are empty: read them before. What trains or edits weights does
    not work on such a model.

    Raises:
        InputError: for a model that is spread over devices or offloaded already, a device that is not there,
            or a folder that cannot be written.

    Example:
        >>> import mcr_lens as mcr
        >>> from mcr_lens.models.offloading import offload
        >>> model = offload(mcr.load_model("tiny", device="cpu"))
        >>> mcr.profile(model, mcr.Prompts.from_tokens([[0, 11, 12]]), progress=False).data.sizes["depth"]
        11
    """
    module = as_module(model)
    parameters = list(module.parameters())
    blocks = list(model.blocks)
    if any(not parameter.numel() for block in blocks for parameter in block.parameters()):
        raise InputError("the model is offloaded already")
    if len({parameter.device for parameter in parameters}) > 1 or parameters[0].is_meta:
        raise InputError('the model is spread over devices: load it with device="cpu" to offload it')
    check_device(device)
    target = torch.empty(0, device=device or parameters[0].device).device
    place = None if folder is None else Path(folder).expanduser()
    stores = [_keep(block, place and place / f"block_{i}.safetensors") for i, block in enumerate(blocks)]
    for block, bring in zip(blocks, stores, strict=True):
        _attach(block, bring, target)
    nn.Module.to(module, target)  # a HookedTransformer's own prints
    model.cfg.device = str(target)
    return model


def _keep(block: nn.Module, path: Path | None) -> Callable[[], Mapping[str, Tensor]]:
    """Put a block's weights away; returns what gives them back."""
    weights = {name: parameter.data for name, parameter in block.named_parameters()}
    if path is None:
        return lambda: weights
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Some are views of one tensor.
        whole = torch.contiguous_format
        save_file({name: tensor.clone(memory_format=whole) for name, tensor in weights.items()}, path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be written ({one_line(error)}); choose another folder") from error

    def read() -> Mapping[str, Tensor]:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)

    return read


def _attach(block: nn.Module, bring: Callable[[], Mapping[str, Tensor]], target: torch.device) -> None:
    """Weights in before the block, out after it, exceptions included."""
    parameters = dict(block.named_parameters())

    def come(*_: Any) -> None:
        for name, tensor in bring().items():
            parameters[name].data = tensor.to(target)

    def go(*_: Any) -> None:
        for parameter in parameters.values():
            parameter.data = torch.empty(0, dtype=parameter.dtype, device=target)

    block.register_forward_pre_hook(come)
    block.register_forward_hook(go, always_call=True)
    go()
