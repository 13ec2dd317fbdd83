"""The model's own read-out: final norm, unembedding and softcap, of any state of the residual stream."""

import torch
from jaxtyping import Float
from torch import Tensor

from mcr_lens.models.backend import Model, backend_of
from mcr_lens.models.user_hooks import points_set_aside

__all__ = ["logit_error", "read_out", "rows_at_a_time"]

# A block of logits holds at most this many numbers: 64 MiB in float32.
_BLOCK_ELEMENTS = 2**24


def read_out(
    model: Model, residual: Float[Tensor, "batch pos d_model"], *, gradients: bool = False
) -> Float[Tensor, "batch pos vocab"]:
    """Logits that the model would give if this state were the one its final norm reads.

    ``softcap(unembed(ln_final(residual)))``, in the model's own arithmetic. Hooks attached to the final
    norm and the unembedding are not called, and are there again afterwards. The self-check
    ``final_readout`` says whether this is the model's own last step: ``require`` it before you rely on it.

    Args:
        residual: a state of the residual stream, in the model's dtype.
        gradients: keep the graph, so that gradients flow back to ``residual``.
    """
    if backend_of(model) == "hooked_transformer":
        # Its layers may lie on several devices; the bridge's modules fetch their input themselves.
        residual = residual.to(model.unembed.W_U.device)
    with points_set_aside([model.ln_final, model.unembed]), torch.set_grad_enabled(gradients):
        logits = model.unembed(model.ln_final(residual))
        cap = getattr(model.cfg, "output_logits_soft_cap", None)
        if cap is not None and cap > 0:
            logits = cap * torch.tanh(logits / cap)
    return logits


def rows_at_a_time(model: Model) -> int:
    """How many rows to read out at once, so that their logits stay small beside the model."""
    return max(1, _BLOCK_ELEMENTS // model.cfg.d_vocab)


def logit_error(actual: Float[Tensor, "*batch vocab"], expected: Float[Tensor, "*batch vocab"]) -> float:
    """``||actual - expected|| / ||expected||`` over all logits, in float32.

    In float16 both ways may overflow, and then agree: Inf counts as the end of the dtype, and what is NaN in
    both is left out. NaN where nothing is left, and where one of them alone is NaN.

    Example:
        >>> logit_error(torch.tensor([3.0, torch.nan]), torch.tensor([4.0, torch.nan]))
        0.25
    """
    actual = actual.to(expected.device)
    numbers = ~(actual.isnan() & expected.isnan())
    ends = [torch.finfo(logits.dtype).max for logits in (actual, expected)]
    first, second = (
        logits[numbers].float().nan_to_num(nan=torch.nan, posinf=end, neginf=-end)
        for logits, end in zip((actual, expected), ends, strict=True)
    )
    return float((first - second).norm() / second.norm())
