from .ablate import ablate_attention_write, ablate_mlp_write, clamp_norm, zero_dimensions
from .attention_knockout import block_attention_to
from .check import check_hooks, described, keep_shapes, warn_of_chunks
from .own_edit import intervention
from .patch import mean_ablate, patch_activation, resample_ablate

__all__ = [
    "ablate_attention_write",
    "ablate_mlp_write",
    "block_attention_to",
    "check_hooks",
    "clamp_norm",
    "described",
    "intervention",
    "keep_shapes",
    "mean_ablate",
    "patch_activation",
    "resample_ablate",
    "warn_of_chunks",
    "zero_dimensions",
]
