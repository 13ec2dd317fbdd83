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
from mcr_lens.experiments.training import profile_training

__all__ = [
    "AblationStudy",
    "Appearance",
    "Claim",
    "PairBatch",
    "PromptPairs",
    "ablation_study",
    "activation_patching",
    "answer_loss",
    "appearance",
    "fit_tuned_lens",
    "input_dependence",
    "kl_divergence",
    "lens_summary",
    "logit_difference",
    "logit_lens",
    "logits_at",
    "profile_training",
]
