from . import tasks
from .ablation.claims import Claim
from .ablation.run import ablation_study
from .ablation.study import AblationStudy
from .appearances import Appearance, appearance
from .generation import GenerationResult, profile_generation
from .lens_result import LensResult, lens_summary
from .lenses import logit_lens
from .patching.logit_metrics import answer_loss, kl_divergence, logit_difference, logits_at
from .patching.prompt_pairs import PairBatch, PromptPairs
from .patching.result import PatchingResult
from .patching.run import activation_patching
from .tasks import (
    ChoiceResult,
    DepthEncoder,
    EmbeddingResult,
    PerplexityResult,
    ProbeResult,
    TextStates,
    Use,
    best_depth,
    embedding_tasks,
    lens_perplexity,
    linear_probes,
    multiple_choice,
    quality_by_depth,
    read_documents,
    text_windows,
    wikitext_articles,
)
from .text_kinds import input_dependence
from .training import profile_training
from .tuned_lens import fit_tuned_lens

__all__ = [
    "AblationStudy",
    "Appearance",
    "ChoiceResult",
    "Claim",
    "DepthEncoder",
    "EmbeddingResult",
    "GenerationResult",
    "LensResult",
    "PairBatch",
    "PatchingResult",
    "PerplexityResult",
    "ProbeResult",
    "PromptPairs",
    "TextStates",
    "Use",
    "ablation_study",
    "activation_patching",
    "answer_loss",
    "appearance",
    "best_depth",
    "embedding_tasks",
    "fit_tuned_lens",
    "input_dependence",
    "kl_divergence",
    "lens_perplexity",
    "lens_summary",
    "linear_probes",
    "logit_difference",
    "logit_lens",
    "logits_at",
    "multiple_choice",
    "profile_generation",
    "profile_training",
    "quality_by_depth",
    "read_documents",
    "tasks",
    "text_windows",
    "wikitext_articles",
]
