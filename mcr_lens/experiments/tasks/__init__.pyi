from .best_depth import best_depth, quality_by_depth
from .embeddings import embedding_tasks
from .encoder import DepthEncoder, TextStates
from .lens_language_model import LensLanguageModel
from .multiple_choice import multiple_choice
from .perplexity import lens_perplexity, read_documents, text_windows, wikitext_articles
from .probes import linear_probes
from .results import ChoiceResult, EmbeddingResult, PerplexityResult, ProbeResult
from .uses import Use

__all__ = [
    "ChoiceResult",
    "DepthEncoder",
    "EmbeddingResult",
    "LensLanguageModel",
    "PerplexityResult",
    "ProbeResult",
    "TextStates",
    "Use",
    "best_depth",
    "embedding_tasks",
    "lens_perplexity",
    "linear_probes",
    "multiple_choice",
    "quality_by_depth",
    "read_documents",
    "text_windows",
    "wikitext_articles",
]
