"""The bundled model: a tiny decoder that shows sinks, massive norms and a compression valley.

`weights_folder()` is a Hugging Face folder; `checkpoint_steps()`, `checkpoint_state(step)` and
`write_checkpoint(step, folder)` give its training history. The model card beside this file says how it
was trained; `scripts/train_tiny` of the repository trained it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "SCALE_SUFFIX",
    "checkpoint_state",
    "checkpoint_steps",
    "dequantise",
    "weights_folder",
    "write_checkpoint",
]

SCALE_SUFFIX = ".scale"
"""What the name of a stored matrix's row scales ends in."""


def weights_folder() -> Path:
    """The folder of the bundled weights: configuration, safetensors, tokenizer, training record.

    Example:
        >>> (weights_folder() / "config.json").is_file()
        True
    """
    return Path(__file__).parent / "weights"


def checkpoint_steps() -> list[int]:
    """The optimizer steps of the bundled checkpoints, in order; the last is the final model's.

    Example:
        >>> checkpoint_steps()[0]
        0
    """
    files = (weights_folder() / "checkpoints").glob("step_*.safetensors")
    return sorted(int(path.stem.removeprefix("step_")) for path in files)


def checkpoint_state(step: int) -> dict[str, Tensor]:
    """The float32 state dict after `step` optimizer steps, under Hugging Face's parameter names.

    Matrices were stored as int8 with a scale a row, so the values are near, not equal, to those trained.

    Raises:
        FileNotFoundError: no checkpoint of that step; the message names the steps there are.
    """
    from safetensors.torch import load_file

    path = weights_folder() / "checkpoints" / f"step_{step:06d}.safetensors"
    if not path.is_file():
        steps = checkpoint_steps()
        raise FileNotFoundError(f"no checkpoint of step {step} in {path.parent}; there are {steps}")
    return dequantise(load_file(path))


def dequantise(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Float32 weights from int8 matrices with one scale a row, and vectors as they are."""
    return {
        name: value.float() * packed[name + SCALE_SUFFIX].float()[:, None]
        if name + SCALE_SUFFIX in packed
        else value.float()
        for name, value in packed.items()
        if not name.endswith(SCALE_SUFFIX)
    }


def write_checkpoint(step: int, folder: Path) -> Path:
    """A Hugging Face folder of the model as it was after `step` optimizer steps, in float32.

    Raises:
        FileNotFoundError: as `checkpoint_state`.
    """
    import shutil

    from safetensors.torch import save_file

    state = checkpoint_state(step)
    folder.mkdir(parents=True, exist_ok=True)
    for file in weights_folder().glob("*.json"):
        shutil.copy(file, folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
