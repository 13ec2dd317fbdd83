from .batches import Batch, BatchCost, Prompts
from .forms import PromptsLike, as_prompts
from .labelled import Labelled, load_labelled
from .read import load_prompts, read_texts
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
