from .batches import Batch, BatchCost, Prompts
from .labelled import Labelled, load_labelled
from .read import PromptsLike, as_prompts, load_prompts, read_texts
from .sample_texts import library_code, word_problems

__all__ = [
    "Batch",
    "BatchCost",
    "Labelled",
    "Prompts",
    "PromptsLike",
    "as_prompts",
    "library_code",
    "load_labelled",
    "load_prompts",
    "read_texts",
    "word_problems",
]
