"""Texts to token batches: BOS first, right-padded, lengths carried; and word problems of our own."""

from mcr_lens.prompts.batches import Batch, BatchCost, Prompts
from mcr_lens.prompts.generators import library_code, word_problems
from mcr_lens.prompts.labelled import Labelled, load_labelled
from mcr_lens.prompts.read import PromptsLike, as_prompts, load_prompts, read_texts

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
