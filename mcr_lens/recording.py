"""``record``: whole activations of some hook points, for a set of prompts."""

from collections.abc import Sequence
from typing import Literal

from mcr_lens.engine import measure
from mcr_lens.hooks.record import ActivationRecorder, Activations
from mcr_lens.models import Hook, Model
from mcr_lens.prompts import PromptsLike

__all__ = ["record"]


def record(
    model: Model,
    prompts: PromptsLike,
    hook_names: Sequence[str],
    *,
    interventions: Sequence[Hook] = (),
    batch_size: int | Literal["auto"] = "auto",
) -> Activations:
    """Run prompts and keep whole activations, as sources for patching.

    Args:
        hook_names: the hook points to keep, such as ``["blocks.3.hook_resid_pre"]``. Mind the memory.

    Returns:
        A mapping from hook name to ``(prompt, pos, ...)``, padded with zeros, with the prompts' ``lengths``.

    Raises:
        InputError: as ``measure``.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> prompts = mcr.Prompts.from_tokens([[0, 11, 12, 13], [0, 21, 22]])
        >>> recorded = mcr.record(model, prompts, ["blocks.2.hook_mlp_out"])
        >>> recorded["blocks.2.hook_mlp_out"].shape == (2, 4, model.cfg.d_model)
        True
    """
    recorder = ActivationRecorder(hook_names)
    measure(model, prompts, [recorder], interventions=interventions, batch_size=batch_size, progress=False)
    return recorder.activations()
