"""Where attention sinks, massive activations and compression valleys begin, and what causes them.

Everything public is an attribute of this module, imported when first used: ``import mcr_lens as mcr``
alone loads neither torch nor TransformerLens.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcr_lens import hooks, metrics, models, phases, viz
    from mcr_lens.engine import measure, profile, record
    from mcr_lens.errors import InputError
    from mcr_lens.hooks import (
        Observer,
        ablate_attention_write,
        ablate_mlp_write,
        block_attention_to,
        clamp_norm,
        mean_ablate,
        patch_activation,
        resample_ablate,
        zero_dimensions,
    )
    from mcr_lens.metrics import Estimator
    from mcr_lens.models import load_model
    from mcr_lens.prompts import Prompts, load_prompts, word_problems
    from mcr_lens.result import Profile

__all__ = [
    "Estimator",
    "InputError",
    "Observer",
    "Profile",
    "Prompts",
    "ablate_attention_write",
    "ablate_mlp_write",
    "block_attention_to",
    "clamp_norm",
    "hooks",
    "load_model",
    "load_prompts",
    "mean_ablate",
    "measure",
    "metrics",
    "models",
    "patch_activation",
    "phases",
    "profile",
    "record",
    "resample_ablate",
    "viz",
    "word_problems",
    "zero_dimensions",
]

__version__ = "0.1.0"

_HOMES = {
    "Estimator": "mcr_lens.metrics",
    "InputError": "mcr_lens.errors",
    "Observer": "mcr_lens.hooks",
    "Profile": "mcr_lens.result",
    "Prompts": "mcr_lens.prompts",
    "load_model": "mcr_lens.models",
    "load_prompts": "mcr_lens.prompts",
    "measure": "mcr_lens.engine",
    "profile": "mcr_lens.engine",
    "record": "mcr_lens.engine",
    "ablate_attention_write": "mcr_lens.hooks",
    "ablate_mlp_write": "mcr_lens.hooks",
    "block_attention_to": "mcr_lens.hooks",
    "clamp_norm": "mcr_lens.hooks",
    "mean_ablate": "mcr_lens.hooks",
    "patch_activation": "mcr_lens.hooks",
    "resample_ablate": "mcr_lens.hooks",
    "zero_dimensions": "mcr_lens.hooks",
    "word_problems": "mcr_lens.prompts",
}
_MODULES = ("hooks", "metrics", "models", "phases", "viz")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"mcr_lens.{name}")
    raise AttributeError(f"module 'mcr_lens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
