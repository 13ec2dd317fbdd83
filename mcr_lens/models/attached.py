"""Hooks that a model already carries when it is measured: they stay, they run, and a result says so."""

from mcr_lens.models.backend import Model

__all__ = ["attached_hooks"]


def attached_hooks(model: Model) -> list[str]:
    """The hook points that the user has hung forward hooks on, each once for every hook, in their own order.

    ``measure`` leaves such hooks where they are, so what they change is part of what is measured.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> _ = model.hook_dict["blocks.1.hook_mlp_out"].add_hook(lambda tensor, hook: tensor * 0)
        >>> len(attached_hooks(model))
        1
        >>> model.reset_hooks()
        >>> attached_hooks(model)
        []
    """
    found, seen = [], set()
    for name, point in model.hook_dict.items():
        # The bridge lists one hook point under several names, behind stand-ins in compatibility mode.
        point = getattr(point, "_target", point)
        if id(point) not in seen:
            seen.add(id(point))
            found += [name] * len(point.fwd_hooks)
    return found
