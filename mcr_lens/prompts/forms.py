"""What stands for prompts: a text, texts, or token ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.prompts.batches import Prompts
from mcr_lens.prompts.checks import without_padding
from mcr_lens.validate import is_whole

__all__ = ["PromptsLike", "as_prompts"]

# What stands for prompts wherever a model is at hand.
PromptsLike = Prompts | str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor


def as_prompts(prompts: PromptsLike, model: Any) -> Prompts:
    """``Prompts`` of what stands for them: a text, several texts, the token ids of one prompt or of several.

    Padding of a batch of ids is left out where it can be told (see ``Prompts.from_tokens``).

    Raises:
        InputError: for anything else, for what ``Prompts.from_texts`` and ``from_tokens`` refuse, and for a
            batch of ids whose padding cannot be told from its text.
    """
    if isinstance(prompts, Prompts):
        return without_padding(prompts, model)
    if isinstance(prompts, str):
        return Prompts.from_texts([prompts], model, source="text")
    listed: Any = prompts.tolist() if isinstance(prompts, Tensor | np.ndarray) else prompts
    first = listed[0] if isinstance(listed, list | tuple) and listed else None
    if isinstance(first, str):
        return Prompts.from_texts(listed, model)
    if isinstance(first, list | tuple | Tensor | np.ndarray):
        return without_padding(Prompts.from_tokens(listed), model)
    if is_whole(first):
        return without_padding(Prompts.from_tokens([listed]), model)
    raise InputError(
        f"prompts is a {type(prompts).__name__}: give a text, texts, token ids, or Prompts (see load_prompts)"
    )
