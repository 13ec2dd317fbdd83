"""Interventions while a model generates: tokens come one at a time, and the sequence grows."""

import contextlib
from collections.abc import Iterator

from mcr_lens.hooks.context import GROWING
from mcr_lens.models.backend import Model
from mcr_lens.models.passes import follow

__all__ = ["generating"]


@contextlib.contextmanager
def generating(model: Model) -> Iterator[None]:
    """Interventions stand at their positions while the model generates, or reads on from a KV cache.

    A position is one of each sequence, with a cache and without, in left-padded batches, too. A position that
    a sequence does not have yet is waited for: outside, it is refused.

    Args:
        model: any model; one from ``load_model`` is followed outside as well, others only here.

    Raises:
        InputError: for what is no model.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> tokens = model.to_tokens("Ann has 5 pens", prepend_bos=True)
        >>> off = mcr.ablate_mlp_write(layers=[1])
        >>> with mcr.generating(model), model.hooks(fwd_hooks=off):
        ...     text = model.generate(tokens, max_new_tokens=4, do_sample=False, verbose=False)
    """
    with follow(model):
        token = GROWING.set(True)
        try:
            yield
        finally:
            GROWING.reset(token)
