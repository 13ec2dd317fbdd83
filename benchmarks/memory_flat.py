"""Is memory flat in the number of prompts? ``python benchmarks/memory_flat.py PROMPTS.jsonl``.

Each number of prompts runs in a process of its own; what is printed is that process's peak resident
set (``getrusage``), the part above a run on the fewest prompts, and the size of the result itself, which
must grow. Sides are ratios within one run; the machine's speed does not matter.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

DEFAULT = Path(__file__).parents[2] / "shared" / "data" / "gsm8k" / "test.jsonl"
COUNTS = (64, 330, 660, 1319)
# glibc keeps freed blocks for later, more of them the longer a process runs. Told to give them back at
# once, the resident set is what is in use.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


def measure_one(path: str, field: str, n: int) -> dict[str, float]:
    """Profile the bundled model on ``n`` prompts in this process."""
    import mcr_lens as mcr

    model = mcr.load_model("tiny")
    prompts = mcr.load_prompts(path, model, field=field, n=n)
    start = time.perf_counter()
    profile = mcr.profile(model, prompts)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"n": len(prompts), "peak": peak, "seconds": seconds, "result": profile.data.nbytes / 2**20}


def main() -> None:
    """One process a count, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="?", default=str(DEFAULT))
    parser.add_argument("--field", default="question")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure_one(arguments.prompts, arguments.field, arguments.one)))
        return
    print("prompts  peak MiB  above the first  result MiB  seconds")
    first = None
    environment = {**os.environ, **ALLOCATOR}
    for n in COUNTS:
        command = [sys.executable, __file__, arguments.prompts, "--field", arguments.field, "--one", str(n)]
        output = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        ).stdout
        row = json.loads(output.splitlines()[-1])
        first = first or row
        above = row["peak"] - first["peak"]
        print(f"{row['n']:7d} {row['peak']:9.0f} {above:16.1f} {row['result']:11.1f} {row['seconds']:8.1f}")


if __name__ == "__main__":
    main()
