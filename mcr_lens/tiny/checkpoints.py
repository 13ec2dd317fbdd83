"""Training checkpoints: how they are thinned, stored at one byte a parameter, and read back."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["dequantise", "is_grid_step", "load_checkpoint", "quantise", "save_checkpoint", "steps_in"]

SCALE = ".scale"


def is_grid_step(step: int) -> bool:
    """Whether a step lies on the logarithmic grid 0, 16, 23, 32, 45, 64, ... (two in an octave)."""
    if step < 16:
        return step == 0
    nearest = round(2 * math.log2(step))
    return step == round(2 ** (nearest / 2))


def quantise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 with one float16 scale a row; vectors (gains, biases) as float16."""
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        value = value.detach().float()
        if value.ndim < 2:
            packed[name] = value.half()
            continue
        scale = (value.abs().amax(dim=1) / 127).clamp_min(1e-7).half()
        rounded = (value / scale.float()[:, None]).round().clamp(-127, 127)
        packed[name] = rounded.to(torch.int8)
        packed[name + SCALE] = scale
    return packed


def dequantise(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `quantise`, in float32, up to half a step of each row's scale."""
    return {
        name: value.float() * packed[name + SCALE].float()[:, None]
        if value.dtype == torch.int8
        else value.float()
        for name, value in packed.items()
        if not name.endswith(SCALE)
    }


def save_checkpoint(state: dict[str, Tensor], folder: Path, step: int) -> Path:
    """Write the quantised state of a step to `folder/step_NNNNNN.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:06d}.safetensors"
    save_file(quantise(state), path, metadata={"step": str(step), "format": "pt"})
    return path


def steps_in(folder: Path) -> list[int]:
    """The steps stored in a folder, in order."""
    return sorted(int(path.stem.removeprefix("step_")) for path in folder.glob("step_*.safetensors"))


def load_checkpoint(folder: Path, step: int) -> dict[str, Tensor]:
    """The state dict of a step, float32, under Hugging Face's parameter names."""
    path = folder / f"step_{step:06d}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint of step {step} in {folder}; there are {steps_in(folder)}")
    return dequantise(load_file(path))
