from .context import BatchContext, current_context, running
from .generation import generating
from .interventions import (
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
from .lenses.continuation import Answer, AnswerLens
from .lenses.logit import LogitLens
from .lenses.translators import Translators
from .lenses.tuned import TunedLens
from .observers.attention import AttentionObserver
from .observers.base import Observer, PromptTable, depth_hook_name
from .observers.massive_tokens import MassiveTokens
from .observers.nonfinite import NonFinite, visible_nan
from .observers.observe import observe
from .observers.patterns import PatternObserver
from .observers.pooled_states import POOLINGS, PooledStates
from .observers.residual import ResidualObserver, WriteObserver
from .observers.rows import Rows
from .record import ActivationRecorder, Activations

__all__ = [
    "POOLINGS",
    "ActivationRecorder",
    "Activations",
    "Answer",
    "AnswerLens",
    "AttentionObserver",
    "BatchContext",
    "LogitLens",
    "MassiveTokens",
    "NonFinite",
    "Observer",
    "PatternObserver",
    "PooledStates",
    "PromptTable",
    "ResidualObserver",
    "Rows",
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
    "observe",
    "patch_activation",
    "resample_ablate",
    "running",
    "visible_nan",
    "zero_dimensions",
]
