"""Experiments: compositions of hooks, the engine and statistics, with labelled results."""

from mcr_lens.experiments.ablation import ablation_study
from mcr_lens.experiments.appearance import Appearance, appearance
from mcr_lens.experiments.claims import Claim
from mcr_lens.experiments.compare import input_dependence
from mcr_lens.experiments.fit_lens import fit_tuned_lens
from mcr_lens.experiments.lenses import lens_summary, logit_lens
from mcr_lens.experiments.logits import answer_loss, kl_divergence, logit_difference, logits_at
from mcr_lens.experiments.patching import activation_patching
from mcr_lens.experiments.prompt_pairs import PairBatch, PromptPairs
from mcr_lens.experiments.study import AblationStudy
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
from mcr_lens.experiments.training import profile_training

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
