"""What each depth is good for: generation, multiple choice, embeddings; and where one could stop."""

from mcr_lens.experiments.tasks.best_depth import best_depth, quality_by_depth
from mcr_lens.experiments.tasks.uses import Use, choice_uses, perplexity_use, probe_uses

__all__ = ["Use", "best_depth", "choice_uses", "perplexity_use", "probe_uses", "quality_by_depth"]
