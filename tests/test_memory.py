"""Memory is flat in the number of prompts: what grows is the result, and little more."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "memory_flat.py"


def peak(prompts: Path, n: int) -> dict[str, float]:
    """Peak resident set of a process that profiles the bundled model on ``n`` prompts."""
    command = [sys.executable, str(BENCHMARK), str(prompts), "--one", str(n)]
    allocator = runpy.run_path(str(BENCHMARK))["ALLOCATOR"]
    environment = {**os.environ, **allocator, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_prompts(shared_data: Path) -> None:
    questions = shared_data / "gsm8k" / "test.jsonl"
    few, many = peak(questions, 200), peak(questions, 1319)
    assert (few["n"], many["n"]) == (200, 1319)
    grown = many["peak"] - few["peak"]
    # The result itself is held twice while it is put together.
    assert grown < 2 * (many["result"] - few["result"]) + 64, f"{grown:.0f} MiB more for 1,119 more prompts"
