"""Training checkpoints: which steps are stored, and how: at one byte a parameter."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mcr_lens.tiny import SCALE_SUFFIX

__all__ = ["is_grid_step", "quantise", "save_checkpoint"]


def is_grid_step(step: int) -> bool:
    """Whether a step lies on the logarithmic grid 0, 16, 23, 32, 45, 64, ... (two in an octave)."""
    if step < 16:
        return step == 0
    nearest = round(2 * math.log2(step))
    return step == round(2 ** (nearest / 2))


def quantise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 with one float16 scale a row; vectors (gains, biases) as float16.

    `mcr_lens.tiny.dequantise` is the inverse, up to half a step of each row's scale.
    """
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        value = value.detach().float()
        if value.ndim < 2:
            packed[name] = value.half()
            continue
        scale = (value.abs().amax(dim=1) / 127).clamp_min(1e-7).half()
        rounded = (value / scale.float()[:, None]).round().clamp(-127, 127)
        packed[name] = rounded.to(torch.int8)
        packed[name + SCALE_SUFFIX] = scale
    return packed


def save_checkpoint(state: dict[str, Tensor], folder: Path, step: int) -> Path:
    """Write the quantised state of a step to `folder/step_NNNNNN.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:06d}.safetensors"
    save_file(quantise(state), path, metadata={"step": str(step), "format": "pt"})
    return path
