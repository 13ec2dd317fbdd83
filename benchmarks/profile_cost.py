"""What a profile costs: ``python benchmarks/profile_cost.py [--shape NAME ...] [--backend NAME ...]``.

On a GPU: ``--device cuda --dtype bfloat16 --shape llama-1b``.

Five ways to look at the same prompts, one after the other in every round, so that what else the machine
does falls on all of them. What is printed are medians over the rounds of the ratios within a round:

    a  the bare forward pass: no hooks, stopped after the last block where the class can
    b  ``mcr.profile``, all metrics
    c  what is written today on TransformerLens: an unfiltered ``run_with_cache``, then the singular values
       of every prompt and depth, and reductions of the cached patterns
    d  the same on Hugging Face, with ``output_hidden_states`` and ``output_attentions``
    e  Hugging Face's own forward pass with ``sdpa`` attention: the floor

Memory is the peak resident set of processes of their own, above that of (a). Where the time of (b) goes is
told by the same pass with fewer observers, and by a clock around the eigenvalues, all threads together. On a
GPU times lie between two events on the device, and memory is the most that torch held there.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import clock, forget_peak, memory_of_children, peak, ratio_line, save_random_model
from transformers.utils import logging

from mcr_lens.tiny import weights_folder

# Layers, width, heads, tokens of a prompt, prompts, vocabulary.
SHAPES = {
    "tiny": None,
    "llama": ("llama", 8, 512, 8, 512, 4, 4096),
    "gpt2": ("gpt2", 12, 768, 12, 256, 4, 50257),
    "llama-1b": ("llama", 16, 2048, 32, 2048, 2, 32000),  # 1.2 billion parameters, for a GPU
}
ON_CPU = ("tiny", "llama", "gpt2")
BACKENDS = ("hooked_transformer", "bridge")
SIDES = ("a", "b", "c", "d", "e")


def make_model(shape: str, folder: Path, dtype: str) -> str:
    """A folder with random weights of a shape, or the name of the bundled model."""
    if SHAPES[shape] is None:
        return "tiny"
    family, layers, width, heads, tokens, _, vocabulary = SHAPES[shape]
    sizes = {
        "llama": {
            "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "intermediate_size": 4 * width, "max_position_embeddings": tokens,
        },
        "gpt2": {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 2 * tokens},
    }[family]  # fmt: skip
    return save_random_model(folder, family, dtype, vocab_size=vocabulary, **sizes)


def make_prompts(shape: str, model: object) -> object:
    """Random tokens of the shape's length; word problems for the bundled model."""
    import mcr_lens as mcr

    if SHAPES[shape] is None:
        return mcr.load_prompts(mcr.prompts.word_problems(16), model)
    *_, tokens, prompts, vocabulary = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    return mcr.Prompts.from_tokens(torch.randint(3, vocabulary, (prompts, tokens), generator=generator))


def sides(shape: str, backend: str, source: str, device: str, dtype: str) -> dict[str, Callable[[], object]]:
    """What is timed, by letter; everything is loaded before."""
    import mcr_lens as mcr
    from mcr_lens.models.backend import run

    model = mcr.load_model(source, backend=backend, device=device, dtype=dtype)
    prompts = make_prompts(shape, model)
    batches = [batch._replace(tokens=batch.tokens.to(device)) for batch in prompts.batches()]
    place = str(weights_folder()) if source == "tiny" else source

    def bare() -> None:
        for batch in batches:
            run(model, batch.tokens, [], blocks_only=True)

    def cached() -> None:
        for batch in batches:
            cache_and_reduce(model, batch)

    def hugging_face() -> None:
        for batch in batches:
            with torch.no_grad():
                out = eager(batch.tokens, output_hidden_states=True, output_attentions=True, use_cache=False)
            reduced(out.hidden_states, out.attentions, batch.lengths.tolist())

    def floor() -> None:
        for batch in batches:
            with torch.no_grad():
                sdpa.base_model(batch.tokens, use_cache=False)

    from transformers import AutoModelForCausalLM

    eager, sdpa = (
        AutoModelForCausalLM.from_pretrained(place, attn_implementation=attention, dtype=dtype).to(device)
        for attention in ("eager", "sdpa")
    )
    return {
        "a": bare,
        "b": lambda: mcr.profile(model, prompts, progress=False),
        "c": cached,
        "d": hugging_face,
        "e": floor,
    }


def cache_and_reduce(model: Any, batch: Any) -> None:
    """One batch with an unfiltered cache, reduced as a script would."""
    with torch.no_grad():
        _, cache = model.run_with_cache(batch.tokens)
    depths = [cache[f"blocks.{i}.hook_resid_pre"] for i in range(model.cfg.n_layers)]
    depths.append(cache[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"])
    patterns = [cache[f"blocks.{i}.attn.hook_pattern"] for i in range(model.cfg.n_layers)]
    reduced(depths, patterns, batch.lengths.tolist())


def reduced(depths: list[torch.Tensor], patterns: list[torch.Tensor], lengths: list[int]) -> list[object]:
    """Entropy with and without the first token, norms, sink scores and mixing, as a script would."""
    found: list[object] = []
    for state in depths:
        for prompt, length in enumerate(lengths):
            x = state[prompt, :length].double()
            for rows in (x, x[1:]):
                share = torch.linalg.svdvals(rows).square()
                share = share / share.sum()
                found.append(-(share * share.clamp(min=1e-300).log()).sum())
            norms = x.norm(dim=-1)
            found.append(norms[0] / norms[1:].mean())
    for pattern in patterns:
        for prompt, length in enumerate(lengths):
            a = pattern[prompt, :, :length, :length]
            found += [a.mean(-2)[:, 0], a.mean(-2).max(-1), torch.special.entr(a).sum(-1).mean(-1)]
            found += [a.diagonal(dim1=-2, dim2=-1).mean(-1), a.diagonal(-1, dim1=-2, dim2=-1).mean(-1)]
    return found


def time_sides(
    shape: str, backend: str, source: str, rounds: int, device: str, dtype: str
) -> dict[str, list[float]]:
    """Seconds of every side in every round, after one round that does not count."""
    calls = sides(shape, backend, source, device, dtype)
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds + 1):
        for side in SIDES:
            took = clock(calls[side], device)
            if number:
                seconds[side].append(took)
    return seconds


def peak_memory(shape: str, backend: str, source: str, side: str, device: str, dtype: str) -> float:
    """Peak, in MiB, of a process that runs one side."""
    command = [sys.executable, __file__, "--one", side, "--shape", shape, "--backend", backend]
    command += ["--source", source, "--device", device, "--dtype", dtype]
    printed = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=memory_of_children(device)
    ).stdout
    return json.loads(printed.splitlines()[-1])


def where_the_time_goes(
    shape: str, backend: str, source: str, rounds: int, device: str, dtype: str
) -> dict[str, float]:
    """Seconds of parts of (b) above (a): medians over rounds of the same pass with fewer observers."""
    import mcr_lens as mcr
    from mcr_lens.hooks import AttentionObserver, ResidualObserver, WriteObserver
    from mcr_lens.metrics import eigenproblems
    from mcr_lens.models.backend import run

    model = mcr.load_model(source, backend=backend, device=device, dtype=dtype)
    prompts = make_prompts(shape, model)
    tokens = [batch.tokens.to(device) for batch in prompts.batches()]
    inside = 0.0

    def timed(solve: Callable[..., object]) -> Callable[..., object]:
        def solved(*arguments: object) -> object:
            nonlocal inside
            start = time.perf_counter()
            try:
                return solve(*arguments)
            finally:
                inside += time.perf_counter() - start

        return solved

    parts: dict[str, Callable[[], object]] = {
        "forward": lambda: [run(model, each, [], blocks_only=True) for each in tokens],
        "residual": lambda: mcr.measure(model, prompts, [ResidualObserver(model)], progress=False),
        "attention": lambda: mcr.measure(model, prompts, [AttentionObserver(model)], progress=False),
        "writes": lambda: mcr.measure(model, prompts, [WriteObserver(model)], progress=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in [*parts, "eigenvalues"]}
    own = {name: getattr(eigenproblems, name) for name in ("spectra_of_tokens", "spectra_of_rest")}
    try:
        for name, solve in own.items():
            setattr(eigenproblems, name, timed(solve))
        for number in range(rounds + 1):
            for name, call in parts.items():
                inside = 0.0
                took = clock(call, device)
                if number:
                    seconds[name].append(took)
                    if name == "residual":
                        seconds["eigenvalues"].append(inside)
    finally:
        for name, solve in own.items():
            setattr(eigenproblems, name, solve)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    above = ("residual", "attention", "writes")
    return {name: took - middle["forward"] * (name in above) for name, took in middle.items()}


def print_times(shapes: dict[str, str], backends: list[str], rounds: int, device: str, dtype: str) -> None:
    kept: list[str] = []
    ratios = ("ba", "ca", "da", "ea", "cb", "db")
    titles = "".join(f"{over}/{under}".rjust(7) for over, under in ratios)
    print(f"\n{'shape':10}{'backend':20}{'a (s)':>8}{titles}")
    for shape, source in shapes.items():
        for backend in backends:
            found = time_sides(shape, backend, source, rounds, device, dtype)
            print(f"{shape:10}{backend:20}{statistics.median(found['a']):8.3f}", end="")
            for over, under in ratios:
                pairs = zip(found[over], found[under], strict=True)
                median = statistics.median(x / y for x, y in pairs)
                kept.append(ratio_line(f"{over}/{under}, {shape}, {backend}", median))
                print(f"{median:7.2f}", end="")
            print(flush=True)
    print("", *kept, sep="\n")


def print_memory(shapes: dict[str, str], backends: list[str], device: str, dtype: str) -> None:
    kept: list[str] = []
    print(f"\n{'shape':10}{'backend':20}{'b above a (MiB)':>16}{'c above a (MiB)':>16}{'b of c':>8}")
    for shape, source in shapes.items():
        for backend in backends:
            most = {side: peak_memory(shape, backend, source, side, device, dtype) for side in "abc"}
            b, c = most["b"] - most["a"], most["c"] - most["a"]
            share = f"{b / c:8.1%}" if c > 0 else "       –"
            print(f"{shape:10}{backend:20}{b:16.0f}{c:16.0f}{share}", flush=True)
            if c > 0:
                kept.append(ratio_line(f"memory b of c, {shape}, {backend}", b / c))
    print("", *kept, sep="\n")


def print_parts(shapes: dict[str, str], backends: list[str], rounds: int, device: str, dtype: str) -> None:
    names = ("forward", "residual", "eigenvalues", "attention", "writes")
    print(f"\n{'shape':10}{'backend':20}", *(f"{name:>12}" for name in names), "  seconds", sep="")
    for shape, source in shapes.items():
        for backend in backends:
            parts = where_the_time_goes(shape, backend, source, rounds, device, dtype)
            print(f"{shape:10}{backend:20}", *(f"{parts[name]:12.3f}" for name in names), sep="", flush=True)


def main() -> None:
    """Time every shape on every backend, then their memory, then the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", nargs="*", default=list(ON_CPU), choices=list(SHAPES))
    parser.add_argument("--backend", nargs="*", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--source", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    where = {"device": arguments.device, "dtype": arguments.dtype}
    if arguments.one:
        (shape,), (backend,) = arguments.shape, arguments.backend
        call = sides(shape, backend, arguments.source, **where)[arguments.one]
        forget_peak(arguments.device)
        call()
        print(json.dumps(peak(arguments.device)))
        return
    import mcr_lens as mcr

    logging.disable_progress_bar()
    print(f"mcr-lens {mcr.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads", end="")
    print(f", {arguments.dtype} on {arguments.device}")
    with tempfile.TemporaryDirectory() as folder:
        shapes = {shape: make_model(shape, Path(folder, shape), arguments.dtype) for shape in arguments.shape}
        print_times(shapes, arguments.backend, arguments.rounds, **where)
        if not arguments.no_memory:
            print_memory(shapes, arguments.backend, **where)
        print_parts(shapes, arguments.backend, arguments.rounds, **where)


if __name__ == "__main__":
    main()
