"""Lists of ``(hook name, function)``: observers that read, interventions that edit, and their context."""

from mcr_lens.hooks.answer_lens import Answer, AnswerLens
from mcr_lens.hooks.context import BatchContext, current_context, running
from mcr_lens.hooks.generation import generating
from mcr_lens.hooks.interventions import (
    ablate_attention_write,
    ablate_mlp_write,
    block_attention_to,
    clamp_norm,
    intervention,
    mean_ablate,
    patch_activation,
    resample_ablate,
    zero_dimensions,
)
from mcr_lens.hooks.lens import LogitLens
from mcr_lens.hooks.look import PatternObserver
from mcr_lens.hooks.observe import (
    AttentionObserver,
    Observer,
    ResidualObserver,
    WriteObserver,
    depth_hook_name,
)
from mcr_lens.hooks.pool import POOLINGS, PooledStates
from mcr_lens.hooks.prompt_table import PromptTable
from mcr_lens.hooks.record import ActivationRecorder, Activations
from mcr_lens.hooks.translators import Translators
from mcr_lens.hooks.tuned_lens import TunedLens

__all__ = [
    "POOLINGS",
    "ActivationRecorder",
    "Activations",
    "Answer",
    "AnswerLens",
    "AttentionObserver",
    "BatchContext",
    "LogitLens",
    "Observer",
    "PatternObserver",
    "PooledStates",
    "PromptTable",
    "ResidualObserver",
    "Translators",
    "TunedLens",
    "WriteObserver",
    "ablate_attention_write",
    "ablate_mlp_write",
    "block_attention_to",
    "clamp_norm",
    "current_context",
    "depth_hook_name",
    "generating",
    "intervention",
    "mean_ablate",
    "patch_activation",
    "resample_ablate",
    "running",
    "zero_dimensions",
]
