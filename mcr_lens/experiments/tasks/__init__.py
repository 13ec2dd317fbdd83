"""What each depth is good for: generation, multiple choice, embeddings; and where one could stop.

``LensLanguageModel`` is a class of lm-eval's and is imported from its own module.
"""

from mcr_lens.experiments.tasks.best_depth import best_depth, quality_by_depth
from mcr_lens.experiments.tasks.encoder import DepthEncoder, embedding_tasks
from mcr_lens.experiments.tasks.multiple_choice import choice_summary, multiple_choice
from mcr_lens.experiments.tasks.perplexity import (
    lens_perplexity,
    read_documents,
    text_windows,
    wikitext_articles,
)
from mcr_lens.experiments.tasks.probes import linear_probes, probe_summary
from mcr_lens.experiments.tasks.text_states import TextStates
from mcr_lens.experiments.tasks.uses import Use, choice_uses, perplexity_use, probe_uses

__all__ = [
    "DepthEncoder",
    "TextStates",
    "Use",
    "best_depth",
    "choice_summary",
    "choice_uses",
    "embedding_tasks",
    "lens_perplexity",
    "linear_probes",
    "multiple_choice",
    "perplexity_use",
    "probe_summary",
    "probe_uses",
    "quality_by_depth",
    "read_documents",
    "text_windows",
    "wikitext_articles",
]
