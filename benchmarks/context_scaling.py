"""How a profile grows with the context: ``python benchmarks/context_scaling.py [--tokens N ...]``.

One prompt of T random tokens is fed in chunks through the KV cache of a small Llama shape with random
weights, each T in a process of its own. Memory is the peak of the resident set (of what torch holds, on a
GPU) above what was held before ``profile``, that is above model and libraries; the KV cache, whose size the
shape tells, is taken off it. The exponent is the slope of a line through the logarithms of that rest and of
T (least squares): 1 is linear, 2 a pattern of T x T. Parts that do not grow with T make it smaller, so the
slope between the last two lengths is told, too.

Where a whole pattern still fits, the same prompt is profiled unchunked as well: what differs most is
printed, relative to a variable's largest value.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measuring import clock, forget_peak, memory_of_children, peak, ratio_line, save_random_model
from transformers.utils import logging

BACKENDS = ("hooked_transformer", "bridge")
# Layers, width, heads, vocabulary.
SHAPES = {"small": (4, 128, 4, 4096), "llama-1b": (16, 2048, 32, 32000)}
TOKENS = (512, 1024, 2048, 4096, 8192, 16384)


def make_model(shape: str, longest: int, dtype: str, folder: Path) -> str:
    layers, width, heads, vocabulary = SHAPES[shape]
    return save_random_model(
        folder, "llama", dtype, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=4 * width, vocab_size=vocabulary,
        max_position_embeddings=longest,
    )  # fmt: skip


def cache_size(shape: str, tokens: int, dtype: str) -> float:
    """MiB of keys and values of one prompt."""
    layers, width, *_ = SHAPES[shape]
    return 2 * layers * tokens * width * torch.empty((), dtype=getattr(torch, dtype)).element_size() / 2**20


def run_one(arguments: argparse.Namespace) -> dict[str, float]:
    """Load, profile in chunks, and compare with whole prompts, in this process."""
    import mcr_lens as mcr

    (tokens,), (backend,), device = arguments.tokens, arguments.backend, arguments.device
    model = mcr.load_model(arguments.source, backend=backend, dtype=arguments.dtype, device=device)
    vocabulary = SHAPES[arguments.shape][-1]
    random = torch.randint(3, vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0))
    prompts = mcr.Prompts.from_tokens(random)
    # What is done once in a process (imports, the self-check, that of the KV cache) is no part of either.
    mcr.profile(model, mcr.Prompts.from_tokens(random[:, :16]), chunk=8, progress=False)
    found: list[mcr.Profile] = []
    held = forget_peak(device)
    seconds = clock(
        lambda: found.append(mcr.profile(model, prompts, chunk=arguments.chunk, progress=False)), device
    )
    row = {"held": held, "above": peak(device) - held, "seconds": seconds}
    if tokens <= arguments.whole:
        whole = mcr.profile(model, prompts, progress=False)
        row["difference"] = largest_difference(found[0], whole)
    return row


def largest_difference(pieces: object, whole: object) -> float:
    """Over all variables, relative to the largest value of each; positions, which may tie, left out."""
    worst = 0.0
    for name in whole.data.data_vars:
        if whole.data[name].dtype.kind != "f" or "position" in name or "dimension" in name:
            continue
        scale = max(1e-6, float(abs(whole.data[name]).max()))
        worst = max(worst, float(abs(pieces.data[name] - whole.data[name]).max()) / scale)
    return worst


def measure(arguments: argparse.Namespace, source: str, backend: str, tokens: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", "--source", source, "--backend", backend]
    command += ["--tokens", str(tokens), "--chunk", str(arguments.chunk), "--whole", str(arguments.whole)]
    command += ["--shape", arguments.shape, "--device", arguments.device, "--dtype", arguments.dtype]
    environment = memory_of_children(arguments.device)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    row = json.loads(done.stdout.splitlines()[-1])
    row["cache"] = cache_size(arguments.shape, tokens, arguments.dtype) if tokens > arguments.chunk else 0.0
    row["beyond"] = row["above"] - row["cache"]
    return row


def exponents(tokens: list[int], beyond: list[float]) -> tuple[float, float, float]:
    """Slope of the logarithms, its standard error, and the slope between the last two."""
    from scipy.stats import linregress

    fit = linregress([math.log(n) for n in tokens], [math.log(size) for size in beyond])
    last = math.log(beyond[-1] / beyond[-2]) / math.log(tokens[-1] / tokens[-2])
    return fit.slope, fit.stderr, last


def print_backend(arguments: argparse.Namespace, source: str, backend: str) -> None:
    print(f"\n{backend}, shape {arguments.shape}, {arguments.dtype} on {arguments.device}, ", end="")
    print(f"chunks of {arguments.chunk} tokens")
    print(f"{'tokens':>7}{'model, libraries':>18}{'above (MiB)':>13}{'KV cache':>10}{'beyond':>9}", end="")
    print(f"{'seconds':>9}{'from whole':>12}")
    beyond = []
    for tokens in arguments.tokens:
        row = measure(arguments, source, backend, tokens)
        beyond.append(row["beyond"])
        print(f"{tokens:7d}{row['held']:18.0f}{row['above']:13.1f}{row['cache']:10.1f}", end="")
        difference = f"{row['difference']:12.0e}" if "difference" in row else f"{'–':>12}"
        print(f"{row['beyond']:9.1f}{row['seconds']:9.1f}{difference}", flush=True)
    if len(beyond) > 2 and min(beyond) > 0:
        slope, error, last = exponents(arguments.tokens, beyond)
        print(
            f"beyond model and KV cache, memory grows as T to the power {slope:.2f} ± {error:.2f}; ", end=""
        )
        print(f"{last:.2f} between the last two lengths")
        name = f"memory exponent, {arguments.shape}, {backend}"
        print(ratio_line(name, slope))
        print(ratio_line(f"{name}, last two lengths", last), flush=True)


def main() -> None:
    """A table for each backend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=list(TOKENS))
    parser.add_argument("--longest", type=int, help="double the last length until it is this")
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument(
        "--whole", type=int, default=4096, help="compare with whole prompts up to this length"
    )
    parser.add_argument("--backend", nargs="*", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--shape", default="small", choices=list(SHAPES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--source", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments)))
        return
    import mcr_lens as mcr

    logging.disable_progress_bar()
    while arguments.longest and arguments.tokens[-1] < arguments.longest:
        arguments.tokens.append(min(2 * arguments.tokens[-1], arguments.longest))
    print(f"mcr-lens {mcr.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        source = make_model(arguments.shape, max(arguments.tokens), arguments.dtype, Path(folder))
        for backend in arguments.backend:
            print_backend(arguments, source, backend)


if __name__ == "__main__":
    main()
