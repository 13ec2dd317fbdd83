"""A byte-level BPE of about a thousand tokens, with every digit a token of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

__all__ = ["BOS", "EOS", "load_tokenizer", "save_tokenizer", "special_ids", "train_tokenizer"]

BOS = "<bos>"
EOS = "<eos>"


def train_tokenizer(texts: Iterable[str], vocabulary: int = 1024) -> Tokenizer:
    """Train the BPE; its encoding starts every text with one `<bos>`, as token 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, bos)],
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, window: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, the Hugging Face folder form."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "unk_token": EOS,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_max_length": window,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read back the tokenizer of a folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def special_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of `<bos>` and `<eos>`; a ValueError when the tokenizer has no such tokens."""
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    if bos is None or eos is None:
        raise ValueError(f"the tokenizer has no {BOS} or no {EOS}: train one with train_tokenizer")
    return bos, eos
