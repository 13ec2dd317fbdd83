"""What a second worker saves: ``python benchmarks/sweep_workers.py [--seconds 20] [--cells 12]``.

One sweep on Ray with one worker, then the same with two, on two cores, each worker with one thread. The
cells are those of one model with random weights (a Llama of 8 layers, 512 wide, 8 heads; prompts of 512
tokens): the untouched model and edits of its MLPs. A first profile says how many prompts make a cell of
``--seconds``. What is told apart:

    Ray          until the cluster of this machine's own has started, once for both
    workers      until two workers have started and imported PyTorch and TransformerLens, once for both
    sweep        from there to the last file, the loading of the model in every worker included

The ratio is that of the sweeps, two workers over one. For a quick look: ``--seconds 2 --cells 4``.
"""

import argparse
import json
import logging
import math
import os
import platform
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import torch
from measuring import ratio_line

import mcr_lens as mcr
from mcr_lens.sweeps import Grid, RayEngine, SweepArm, SweepModel, SweepPrompts, sweep
from mcr_lens.tiny import weights_folder

TOKENS, LAYERS = 512, 8
WORKERS = (1, 2)


def make_model(folder: Path) -> None:
    """Random weights, and the bundled tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        hidden_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=2048,
        max_position_embeddings=TOKENS,
        vocab_size=4096,
        bos_token_id=1,
        eos_token_id=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(weights_folder() / name, folder)


def make_prompts(path: Path, n: int) -> None:
    """Texts that are longer than the prompts that are cut of them."""
    texts = [" ".join(mcr.prompts.word_problems(24, seed)) for seed in range(n)]
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in texts))


def prompts_of(seconds: float, model: SweepModel, path: Path) -> int:
    """How many prompts a cell of these seconds has, by the second of two profiles of one thread."""
    make_prompts(path, 2)
    loaded = model.load(None)
    prompts = SweepPrompts(str(path), field="question", max_tokens=TOKENS).load(loaded)
    assert prompts.lengths == (TOKENS, TOKENS)
    spent = 0.0
    for _ in range(2):
        began = time.perf_counter()
        mcr.profile(loaded, prompts, progress=False)
        spent = time.perf_counter() - began
    return max(1, math.ceil(seconds / (spent / len(prompts))))


def import_package() -> None:
    """What a worker does first."""
    import mcr_lens.sweeps  # noqa: F401


def timed(grid: Grid, out: Path, workers: int) -> float:
    """Seconds of a sweep whose workers have started."""
    began = time.perf_counter()
    table = sweep(grid, out, RayEngine(workers=workers, shards=1), progress=False)
    if set(table.state) != {"done"}:
        raise SystemExit(f"cells have failed: {table.error[table.state != 'done'].iloc[0]}")
    return time.perf_counter() - began


def main() -> None:
    """One line a number of workers, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=22, help="of a cell on one thread, by a first profile"
    )
    parser.add_argument("--cells", type=int, default=12, help="of the sweep")
    given = parser.parse_args()
    import ray

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(folder / "llama")
        model = SweepModel(str(folder / "llama"))
        n = prompts_of(given.seconds, model, folder / "questions.jsonl")
        make_prompts(folder / "questions.jsonl", n)
        arms = [SweepArm(), *(SweepArm("ablate_mlp_write", layers=(i % LAYERS,), dose=1 / (1 + i // LAYERS))
                              for i in range(given.cells - 1))]  # fmt: skip
        prompts = SweepPrompts(str(folder / "questions.jsonl"), field="question", max_tokens=TOKENS)
        grid = Grid([model], [prompts], arms)
        began = time.perf_counter()
        ray.init("local", num_cpus=max(WORKERS), include_dashboard=False, log_to_driver=False,
                 logging_level=logging.ERROR, object_store_memory=256 * 2**20)  # fmt: skip
        started = time.perf_counter()
        ray.get([ray.remote(import_package).remote() for _ in range(max(WORKERS))])
        imported = time.perf_counter()
        print(
            f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores; ray {version('ray')}, torch "
            f"{torch.__version__}, transformer-lens {version('transformer-lens')}; {given.cells} "
            f"cells of {n} prompts x {TOKENS} tokens"
        )
        print(f"Ray {started - began:.1f} s, workers {imported - started:.1f} s\n")
        print(f"{'workers':>7}  {'sweep (s)':>9}  {'a cell and worker (s)':>21}")
        times = {}
        for workers in WORKERS:
            times[workers] = seconds = timed(grid, folder / f"out{workers}", workers)
            print(f"{workers:>7}  {seconds:>9.1f}  {seconds * workers / given.cells:>21.1f}", flush=True)
        ray.shutdown()
        one, two = (
            {path.name: path.read_bytes() for path in (folder / f"out{k}").iterdir()} for k in WORKERS
        )
        print(f"\nfiles of both sweeps: {'the same' if one == two else 'DIFFERENT'}")
        print(ratio_line("two workers over one", times[2] / times[1]))


if __name__ == "__main__":
    main()
