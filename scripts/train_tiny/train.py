"""Train a tiny decoder: `python -m train_tiny.train --problems openai/gsm8k --out runs/tiny`.

The loss is next-token cross-entropy and nothing else; no parameter, learning rate or initialisation
knows the first token or what is measured of it.
"""

from __future__ import annotations

import json
import platform
import random
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from tokenizers import Tokenizer

from train_tiny.corpus import Corpus, Source, problem_texts, read_texts, standard_library_texts
from train_tiny.decoder import Shape
from train_tiny.parallel import Peers
from train_tiny.synthetic import synthetic_document
from train_tiny.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from train_tiny.trainer import Settings, Trainer, Validation

__all__ = ["main"]

HELD_OUT = 373


def gather_texts(problems: str, text: list[str], library: bool) -> dict[str, list[str]]:
    """Texts by source name; `problems` is first."""
    texts = {"problems": problem_texts(problems)}
    for name in text:
        texts[Path(name).parent.name + "/" + Path(name).name] = read_texts(name)
    if library:
        texts["standard library"] = standard_library_texts()
    return texts


def build_tokenizer(texts: dict[str, list[str]], folder: Path, window: int, seed: int) -> None:
    """Unless the folder has a tokenizer, train one on the problems, some of the rest, and more."""
    if (folder / "tokenizer.json").is_file():
        return
    rng = random.Random(seed)
    sample = list(texts["problems"][:-HELD_OUT])
    for name, others in texts.items():
        if name != "problems":
            sample.append("\n".join(others)[:400_000])
    sample += [synthetic_document(rng) for _ in range(2000)]
    tokenizer = train_tokenizer(sample)
    save_tokenizer(tokenizer, folder, window)


def build_corpus(
    texts: dict[str, list[str]],
    tokenizer: Tokenizer,
    problem_share: float,
    synthetic_share: float,
    settings: Settings,
) -> tuple[Corpus, Validation]:
    """The training mixture and the held-out problems, the last of the list."""
    tokens = {
        name: [e.ids for e in tokenizer.encode_batch(some, add_special_tokens=False)]
        for name, some in texts.items()
    }
    problems = tokens.pop("problems")
    share = (1 - problem_share - synthetic_share) / max(1, len(tokens))
    sources = [Source("problems", problem_share, problems[:-HELD_OUT], whole=True)]
    for name, others in tokens.items():
        whole = sum(map(len, others)) / len(others) < 256
        sources.append(Source(name, share, others, whole=whole))
    corpus = Corpus(
        sources,
        tokenizer,
        synthetic_share=synthetic_share,
        tokens_per_batch=settings.tokens_per_batch,
        seed=settings.seed,
    )
    held_out = problems[-HELD_OUT:]
    questions = [text.rsplit("\n####")[0] for text in texts["problems"][-HELD_OUT:][:64]]
    return corpus, Validation(
        windows=[[corpus.bos, *ids, corpus.eos] for ids in held_out[:48]],
        questions=[tokenizer.encode(text.split("\n")[0]).ids[:128] for text in questions],
    )


def main(
    out: Annotated[Path, typer.Option(help="Folder for weights, tokenizer, curves, checkpoints.")],
    problems: Annotated[
        str, typer.Option(help="Folder with train.jsonl, a .jsonl file, or a datasets name.")
    ] = "openai/gsm8k",
    text: Annotated[
        list[str] | None, typer.Option(help="More texts: a file or a datasets name; repeat.")
    ] = None,
    library: Annotated[bool, typer.Option(help="Add Python's own modules.")] = True,
    problem_share: Annotated[float, typer.Option(help="Share of windows: problems.")] = 0.4,
    synthetic_share: Annotated[float, typer.Option(help="Share of windows: made-up.")] = 0.25,
    steps: Annotated[int, typer.Option(help="Optimizer steps in all.")] = 4000,
    decay_steps: Annotated[int, typer.Option(help="Last steps, lr falling to 0.")] = 0,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 4e-3,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay of matrices.")] = 0.1,
    beta2: Annotated[float, typer.Option(help="AdamW's second beta.")] = 0.95,
    tokens_per_batch: Annotated[int, typer.Option(help="Tokens a step, padding too.")] = 2048,
    width: Annotated[int, typer.Option(help="Residual stream.")] = 128,
    layers: Annotated[int, typer.Option(help="Blocks.")] = 8,
    heads: Annotated[int, typer.Option(help="Heads a layer.")] = 8,
    hidden: Annotated[int, typer.Option(help="MLP width.")] = 256,
    rope_theta: Annotated[float, typer.Option(help="Rotary base.")] = 10000.0,
    tied: Annotated[bool, typer.Option(help="One matrix embeds and unembeds.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's choice.")] = 0,
    evaluate_every: Annotated[int, typer.Option(help="Steps between progress lines.")] = 250,
    resume: Annotated[bool, typer.Option(help="Go on from OUT/resume.pt.")] = False,
) -> None:
    """Train on problems, other texts and made-up documents; write a Hugging Face folder."""
    if threads:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    peers = Peers.join()
    settings = Settings(
        steps=steps,
        decay_steps=decay_steps,
        lr=lr,
        weight_decay=weight_decay,
        beta2=beta2,
        tokens_per_batch=tokens_per_batch,
        seed=seed,
        evaluate_every=evaluate_every,
    )
    shape = Shape(width=width, layers=layers, heads=heads, hidden=hidden, rope_theta=rope_theta, tied=tied)
    texts = gather_texts(problems, text or [], library)
    if peers.rank == 0:
        build_tokenizer(texts, out, shape.window, seed)
    peers.wait()
    tokenizer = load_tokenizer(out)
    corpus, validation = build_corpus(texts, tokenizer, problem_share, synthetic_share, settings)
    config = shape.to_config(corpus.bos, corpus.eos)
    if peers.rank == 0:
        (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    trainer = Trainer(shape, settings, corpus, validation, out, peers)
    trainer.record = {
        "settings": asdict(settings),
        "shape": asdict(shape),
        "shares": {source.name: source.share for source in corpus.sources} | {"made-up": synthetic_share},
        "tokens_by_source": {s.name: sum(map(len, s.texts)) for s in corpus.sources},
        "processes": peers.count,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    if resume:
        trainer.resume()
    trainer.run()


if __name__ == "__main__":
    typer.run(main)
