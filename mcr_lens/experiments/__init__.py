"""Experiments: compositions of hooks, the engine and statistics, with labelled results."""

from mcr_lens.experiments.ablation.claims import Claim
from mcr_lens.experiments.ablation.run import ablation_study
from mcr_lens.experiments.ablation.study import AblationStudy
from mcr_lens.experiments.appearances import Appearance, appearance
from mcr_lens.experiments.lenses import lens_summary, logit_lens
from mcr_lens.experiments.patching.logit_metrics import (
    answer_loss,
    kl_divergence,
    logit_difference,
    logits_at,
)
from mcr_lens.experiments.patching.prompt_pairs import PairBatch, PromptPairs
from mcr_lens.experiments.patching.run import activation_patching
from mcr_lens.experiments.tasks import (
    DepthEncoder,
    TextStates,
    Use,
    best_depth,
    choice_summary,
    choice_uses,
    embedding_tasks,
    lens_perplexity,
    linear_probes,
    multiple_choice,
    perplexity_use,
    probe_summary,
    probe_uses,
    quality_by_depth,
    read_documents,
    text_windows,
    wikitext_articles,
)
from mcr_lens.experiments.text_kinds import input_dependence
from mcr_lens.experiments.training import profile_training
from mcr_lens.experiments.tuned_lens import fit_tuned_lens

__all__ = [
    "AblationStudy",
    "Appearance",
    "Claim",
    "DepthEncoder",
    "PairBatch",
    "PromptPairs",
    "TextStates",
    "Use",
    "ablation_study",
    "activation_patching",
    "answer_loss",
    "appearance",
    "best_depth",
    "choice_summary",
    "choice_uses",
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
    "perplexity_use",
    "probe_summary",
    "probe_uses",
    "profile_training",
    "quality_by_depth",
    "read_documents",
    "text_windows",
    "wikitext_articles",
]
