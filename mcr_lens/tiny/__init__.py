"""The bundled model: a tiny decoder that shows sinks, massive norms and a compression valley.

`weights_folder()` is a Hugging Face folder; `checkpoint_steps()` and `checkpoint_state(step)` give its
training history. How it was trained: `python -m mcr_lens.tiny.train --help` and the model card beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["checkpoint_state", "checkpoint_steps", "weights_folder"]


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
