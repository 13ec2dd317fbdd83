"""Texts to training windows: one document a window, `<bos>` first, never two documents in one.

With several documents in a window the separators between them become places for attention to rest on;
with one, the first token is the only constant one.
"""

from __future__ import annotations

import json
import random
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from train_tiny.synthetic import synthetic_document
from train_tiny.tokenizer import special_ids

__all__ = ["Corpus", "Source", "problem_texts", "read_texts", "standard_library_texts"]

CALCULATOR_MARK = re.compile(r"<<[^>]*>>")


def _rows(source: str, split: str) -> Iterator[dict[str, str]]:
    path = Path(source)
    if path.is_dir():
        path = path / f"{split}.jsonl"
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())
        return
    from datasets import load_dataset

    name, _, config = source.partition(":")
    for row in load_dataset(name, config or "main", split=split):
        yield dict(row)  # pyright: ignore[reportArgumentType]


def problem_texts(source: str, split: str = "train") -> list[str]:
    """Question, newline, answer for each row of GSM8K, calculator marks removed.

    `source` is a folder that holds `train.jsonl`, a `.jsonl` file, or a `datasets` name
    (`openai/gsm8k`, or `name:config`).
    """
    return [CALCULATOR_MARK.sub("", f"{row['question']}\n{row['answer']}") for row in _rows(source, split)]


def read_texts(source: str) -> list[str]:
    """The texts of a file (`.jsonl`: one a line; else the file), or of a `datasets` name."""
    path = Path(source)
    if not path.is_file() or path.suffix == ".jsonl":
        rows = _rows(source, "train")
        return ["\n".join(v for v in row.values() if isinstance(v, str)) for row in rows]
    return [path.read_text(encoding="utf-8", errors="replace")]


def standard_library_texts(limit: int = 4_000_000) -> list[str]:
    """Modules of Python's own library, in the order of their names, up to `limit` characters."""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        texts.append(path.read_text(encoding="utf-8", errors="replace"))
        limit -= len(texts[-1])
        if limit < 0:
            break
    return texts


@dataclass
class Source:
    """Tokenised texts of one kind, with the share of training windows that they get.

    `whole` texts are windows as they are (cut at the longest window); others are cut at random places
    into windows of random length.
    """

    name: str
    share: float
    texts: list[list[int]] = field(repr=False, default_factory=list)
    whole: bool = False

    def draw(self, rng: random.Random, longest: int) -> list[int]:
        """One document without `<bos>`, at most `longest` tokens."""
        if self.whole:
            return rng.choice(self.texts)[:longest]
        text = rng.choices(self.texts, cum_weights=self._cumulative())[0]
        length = min(int(2 ** rng.uniform(5, 9)), longest)
        start = rng.randrange(max(1, len(text) - length))
        return text[start : start + length]

    def _cumulative(self) -> list[int]:
        if not hasattr(self, "_sums"):
            total, self._sums = 0, []
            for text in self.texts:
                total += len(text)
                self._sums.append(total)
        return self._sums


class Corpus:
    """A mixture of sources and made-up documents, served as batches of windows of like length.

    Pool number k is a function of the seed and k alone, so training can resume at any batch.
    """

    POOL = 2048
    LENGTHS = (64, 96, 128, 160, 192, 224, 256, 352, 512)

    def __init__(
        self,
        sources: list[Source],
        tokenizer: Tokenizer,
        *,
        synthetic_share: float,
        tokens_per_batch: int,
        seed: int,
    ) -> None:
        self.sources, self.tokenizer, self.seed = sources, tokenizer, seed
        self.synthetic_share, self.tokens_per_batch = synthetic_share, tokens_per_batch
        self.bos, self.eos = special_ids(tokenizer)

    def window(self, rng: random.Random) -> list[int]:
        """One window: `<bos>`, a document, and `<eos>` where the document ends in the window."""
        longest = self.LENGTHS[-1]
        weights = [source.share for source in self.sources] + [self.synthetic_share]
        pick = rng.choices(range(len(weights)), weights=weights)[0]
        if pick == len(self.sources):
            text = synthetic_document(rng)
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids[:longest]
            return [self.bos, *ids, self.eos]
        source = self.sources[pick]
        ids = source.draw(rng, longest)
        return [self.bos, *ids, self.eos] if source.whole else [self.bos, *ids]

    def pool(self, index: int) -> list[list[list[int]]]:
        """The batches of pool `index`, in order; every window is cut to the longest length + 1."""
        rng = random.Random(f"{self.seed}/{index}")
        buckets: dict[int, list[list[int]]] = {length: [] for length in self.LENGTHS}
        for _ in range(self.POOL):
            window = self.window(rng)[: self.LENGTHS[-1] + 1]
            length = next(n for n in self.LENGTHS if len(window) - 1 <= n)
            buckets[length].append(window)
        batches = []
        for length, windows in buckets.items():
            size = max(1, self.tokens_per_batch // length)
            full = range(0, len(windows) - size + 1, size)
            batches += [windows[start : start + size] for start in full]
        rng.shuffle(batches)
        return batches

    def bucket_length(self, batch: list[list[int]]) -> int:
        """The padded length of a batch's inputs."""
        longest = max(len(window) for window in batch) - 1
        return next(n for n in self.LENGTHS if longest <= n)
