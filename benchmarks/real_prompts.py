"""Profiles of real questions, of many lengths: ``python benchmarks/real_prompts.py [--shape NAME ...]``.

GSM8K's test questions (``../shared/data``; or ``--questions FILE``), tokenised by the bundled model's
tokenizer. In every round, one after the other, so that what else the machine does falls on all of them:

    a  the bare forward pass without the unembedding, at each batch size; the best one counts
    b  ``mcr.profile`` as a user calls it
    c  an unfiltered ``run_with_cache`` and an SVD of every prompt and depth, at each batch size

Printed are medians over the rounds, of seconds and of ratios within a round.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import clock, ratio_line, save_random_model
from profile_cost import cache_and_reduce
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = ROOT.parent / "shared" / "data" / "gsm8k" / "test.jsonl"
# Family, sizes, number of questions.
SHAPES = {
    "gpt2": ("gpt2", {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 512}, 64),
    "pythia-410m": (
        "gpt_neox",
        {
            "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
            "intermediate_size": 4096, "max_position_embeddings": 2048,
        },
        16,
    ),
    "tiny": (None, {}, 64),
}  # fmt: skip
SIZES = (2, 4, 8)


def make_model(shape: str, folder: Path, backend: Any) -> Any:
    """A random model of a shape, or the bundled one."""
    import mcr_lens as mcr

    family, sizes, _ = SHAPES[shape]
    source = (
        "tiny" if family is None else save_random_model(folder / shape, family, vocab_size=50304, **sizes)
    )
    return mcr.load_model(source, backend=backend)


def sides(model: Any, prompts: Any) -> dict[tuple[str, int], Callable[[], object]]:
    """What is timed, by letter and batch size (0: as a user calls it)."""
    import mcr_lens as mcr
    from mcr_lens.models.backend import run

    def bare(size: int) -> None:
        for batch in prompts.batches(size):
            run(model, batch.tokens, [], blocks_only=True)

    def cached(size: int) -> None:
        for batch in prompts.batches(size):
            cache_and_reduce(model, batch)

    calls: dict[tuple[str, int], Callable[[], object]] = {
        ("b", 0): lambda: mcr.profile(model, prompts, progress=False)
    }
    for size in SIZES:
        calls["a", size] = lambda size=size: bare(size)
        calls["c", size] = lambda size=size: cached(size)
    return calls


def main() -> None:
    """Time every shape on every backend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--backend", nargs="*", default=["hooked_transformer"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=Path, default=QUESTIONS)
    arguments = parser.parse_args()
    import mcr_lens as mcr

    logging.disable_progress_bar()
    tokenizer = mcr.load_model("tiny")
    kept: list[str] = []
    for shape in arguments.shape:
        prompts = mcr.load_prompts(
            arguments.questions, tokenizer, field="question", n=SHAPES[shape][2], max_tokens=256
        )
        lengths = f"{min(prompts.lengths)} to {max(prompts.lengths)} tokens, {sum(prompts.lengths):,} in all"
        for backend in arguments.backend:
            print(f"\n{shape}, {backend}: {len(prompts)} questions of {lengths}")
            with tempfile.TemporaryDirectory() as folder:
                calls = sides(make_model(shape, Path(folder), backend), prompts)
            rounds = [{side: clock(call) for side, call in calls.items()} for _ in range(arguments.rounds)]
            for (letter, size), _ in calls.items():
                seconds = statistics.median(each[letter, size] for each in rounds)
                print(f"  {letter}  {f'batches of {size}' if size else 'by default':14} {seconds:8.2f} s")
            best = [
                {letter: min(each[key] for key in calls if key[0] == letter) for letter in "abc"}
                for each in rounds
            ]
            for over, under in ("ba", "cb"):
                ratio = statistics.median(each[over] / each[under] for each in best)
                kept.append(ratio_line(f"{over}/{under}, questions, {shape}, {backend}", ratio))
    print("", *kept, sep="\n")


if __name__ == "__main__":
    main()
