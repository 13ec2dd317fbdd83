"""What one more batch costs a model, in padded tokens, and how many tokens a batch may have."""

import torch

from mcr_lens.models.backend import Model, as_module
from mcr_lens.models.boundaries import rotary_limit
from mcr_lens.prompts.batches import BatchCost

__all__ = ["batch_cost"]

# Seconds that a layer takes for a batch (its hooks and calls) and for a token beside the matrix products;
# products a second; bytes of weights read a second. Orders of magnitude, fitted on two cores to a GPT-2 of 12
# layers and to the bundled model (docs/scale.md): they decide where batches are cut, never what is measured.
# They are constants, so that the same prompts are always cut alike.
_HOST = (5e-3, 1.2e-5, 1.4e11, 2e10)
_ACCELERATOR = (5e-3, 2e-7, 1e14, 2e12)
# On a host the widest activations of a batch should stay in the caches.
_CACHE_BYTES = 2**24
_FEWEST, _MOST = 512, 4096


def batch_cost(model: Model) -> BatchCost:
    """How ``Prompts.batches`` should cut for this model on its device.

    Returns:
        ``per_batch`` = (seconds of a layer for a batch, its weights read once) / (seconds of a layer for a
        token); ``max_tokens``: on a host as many as keep the MLP's activations in the caches;
        ``boundary``: where the model's rotary factors depend on the length of the call.

    Example:
        >>> import mcr_lens as mcr
        >>> batch_cost(mcr.load_model("tiny")).max_tokens
        4096
    """
    cfg = model.cfg
    on_host = torch.device(cfg.device).type == "cpu"
    for_batch, for_token, products, read = _HOST if on_host else _ACCELERATOR
    blocks = [parameter for parameter in as_module(model).parameters() if parameter.ndim > 1]
    vocabulary = sum(p.numel() for p in blocks if cfg.d_vocab in p.shape)
    weights = (sum(p.numel() for p in blocks) - vocabulary) / cfg.n_layers
    width = blocks[0].element_size()
    per_batch = (for_batch + width * weights / read) / (for_token + 2 * weights / products)
    widest = cfg.d_mlp or 4 * cfg.d_model
    most = _CACHE_BYTES // (4 * widest) if on_host else _MOST
    return BatchCost(round(per_batch), min(max(most, _FEWEST), _MOST), rotary_limit(model))
