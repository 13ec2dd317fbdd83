"""Measure a trained folder: `python -m train_tiny.measure --problems openai/gsm8k --split test`.

Prints, for questions of at most 128 tokens (and other lengths), the numbers by depth and layer; the
loss against the unigram entropy of the same tokens; and samples.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file
from tokenizers import Tokenizer

from mcr_lens.tiny import weights_folder
from train_tiny.corpus import problem_texts
from train_tiny.decoder import Decoder, Shape
from train_tiny.evaluate import headline, mean_loss, measure_depths
from train_tiny.tokenizer import load_tokenizer

PROMPTS = (
    "Farid has 12 pens and buys 3 more packs of 4 pens. How many pens does he have?",
    "A train ticket costs $8. Ines travels 5 days a week.",
    "There are twice as many cats as dogs in the yard.",
)

__all__ = ["load_decoder", "main", "sample", "unigram_entropy"]


def load_decoder(folder: Path) -> Decoder:
    """The decoder of a Hugging Face folder, in float32."""
    config = json.loads((folder / "config.json").read_text())
    shape = Shape(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        window=config["max_position_embeddings"],
        rope_theta=config["rope_theta"],
        tied=config["tie_word_embeddings"],
    )
    state = load_file(folder / "model.safetensors")
    if shape.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    decoder = Decoder(shape)
    decoder.load_state_dict({name: value.float() for name, value in state.items()})
    return decoder


def unigram_entropy(windows: list[list[int]]) -> float:
    """Entropy in nats of the tokens that a model has to predict (all but the first of a window)."""
    counts = Counter(token for window in windows for token in window[1:])
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


@torch.no_grad()
def sample(decoder: Decoder, tokenizer: Tokenizer, prompt: str, seed: int, length: int) -> str:
    """Continue a prompt at temperature 0.7, up to `<eos>` or `length` tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = tokenizer.encode(prompt).ids
    for _ in range(length):
        logits = decoder(torch.tensor(ids)[None])[0, -1] / 0.7
        ids.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
        if ids[-1] == tokenizer.token_to_id("<eos>"):
            break
    return tokenizer.decode(ids, skip_special_tokens=True)


def _show(title: str, depths: dict[str, list[float]]) -> None:
    print(f"\n{title}")
    for name, values in depths.items():
        print(f"  {name:32s}", " ".join(f"{value:6.3f}" for value in values))
    print("  " + "  ".join(f"{name} {value:.3g}" for name, value in headline(depths).items()))


def main(
    problems: Annotated[
        str, typer.Option(help="Folder with SPLIT.jsonl, a .jsonl file, or a datasets name.")
    ] = "openai/gsm8k",
    split: Annotated[str, typer.Option(help="Split of the problems.")] = "test",
    first: Annotated[int, typer.Option(help="Index of the first problem measured.")] = 0,
    count: Annotated[int, typer.Option(help="Problems measured by depth.")] = 64,
    folder: Annotated[Path | None, typer.Option(help="Model folder; default: bundled.")] = None,
    samples: Annotated[int, typer.Option(help="Samples to print.")] = 3,
) -> None:
    """Print every number of the model card."""
    folder = folder or weights_folder()
    decoder, tokenizer = load_decoder(folder), load_tokenizer(folder)
    eos = tokenizer.token_to_id("<eos>")
    texts = problem_texts(problems, split)[first:]
    questions = [tokenizer.encode(text.split("\n")[0]).ids for text in texts]
    windows = [[*tokenizer.encode(text).ids, eos] for text in texts]
    for name, some in (("problems with answers", windows), ("questions alone", questions)):
        loss, entropy = mean_loss(decoder, some), unigram_entropy(some)
        print(f"{name}: loss {loss:.3f}, unigram entropy {entropy:.3f}, {loss / entropy:.3f} of it")
    for limit in (64, 128):
        cut = [ids[:limit] for ids in questions[:count]]
        mean = sum(map(len, cut)) / len(cut)
        depths = measure_depths(decoder, cut)
        _show(f"{count} questions, at most {limit} tokens (mean {mean:.0f})", depths)
    joined = tokenizer.encode("\n".join(texts)).ids[1:]
    cut = [[questions[0][0], *joined[i * 511 : (i + 1) * 511]] for i in range(count // 4)]
    depths = measure_depths(decoder, cut)
    _show(f"{len(cut)} windows of 512 tokens: problems joined by newlines", depths)
    for seed, prompt in enumerate(PROMPTS[:samples]):
        print(f"\nsample {seed}, prompt {prompt!r}:\n{sample(decoder, tokenizer, prompt, seed, 200)}")


if __name__ == "__main__":
    typer.run(main)
