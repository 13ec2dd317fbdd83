from .best_depth import best_depth, quality_by_depth
from .embeddings import embedding_tasks
from .encoder import DepthEncoder, TextStates
from .lens_language_model import LensLanguageModel
from .multiple_choice import choice_summary, multiple_choice
from .perplexity import lens_perplexity, read_documents, text_windows, wikitext_articles
from .probes import linear_probes, probe_summary
from .uses import Use, choice_uses, perplexity_use, probe_uses

__all__ = [
    "DepthEncoder",
    "LensLanguageModel",
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
