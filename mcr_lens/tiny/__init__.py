"""The bundled model: a tiny decoder that shows sinks, massive norms and a compression valley.

`weights_folder()` is a Hugging Face folder; `checkpoint_steps()`, `checkpoint_state(step)` and
`write_checkpoint(step, folder)` give its training history. How it was trained:
`python -m mcr_lens.tiny.train --help` and the model card beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["checkpoint_state", "checkpoint_steps", "weights_folder", "write_checkpoint"]


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
    from mcr_lens.tiny.checkpoints import steps_in

    return steps_in(weights_folder() / "checkpoints")


def checkpoint_state(step: int) -> dict[str, Tensor]:
    """The float32 state dict after `step` optimizer steps, under Hugging Face's parameter names.

    Matrices were stored as int8 with a scale a row, so the values are near, not equal, to those trained.

    Raises:
        FileNotFoundError: no checkpoint of that step; the message names the steps there are.
    """
    from mcr_lens.tiny.checkpoints import load_checkpoint

    return load_checkpoint(weights_folder() / "checkpoints", step)


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
