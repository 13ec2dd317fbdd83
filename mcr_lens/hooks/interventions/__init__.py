"""Interventions: plain lists of ``(hook name, function)`` that edit what a model computes."""

from mcr_lens.hooks.interventions.ablate import (
    ablate_attention_write,
    ablate_mlp_write,
    clamp_norm,
    zero_dimensions,
)
from mcr_lens.hooks.interventions.attention_knockout import block_attention_to
from mcr_lens.hooks.interventions.base import index_tuple
from mcr_lens.hooks.interventions.check import (
    check_hooks,
    described,
    edits_a_pattern,
    keep_shapes,
    shapes_attention,
    warn_of_chunks,
)
from mcr_lens.hooks.interventions.own_edit import intervention
from mcr_lens.hooks.interventions.patch import mean_ablate, patch_activation, resample_ablate

__all__ = [
    "ablate_attention_write",
    "ablate_mlp_write",
    "block_attention_to",
    "check_hooks",
    "clamp_norm",
    "described",
    "edits_a_pattern",
    "index_tuple",
    "intervention",
    "keep_shapes",
    "mean_ablate",
    "patch_activation",
    "resample_ablate",
    "shapes_attention",
    "warn_of_chunks",
    "zero_dimensions",
]
