"""What the benchmarks share: peaks and clocks of the host and of a GPU, and the lines that are kept.

A benchmark prints each ratio that has a history once more on a line of its own, ``ratio: NAME: VALUE``;
``results.py`` reads those lines and no other.
"""

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# glibc keeps freed blocks for later, more of them the longer a process runs. Told to give them back at
# once, the resident set is what is in use.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
RATIO = re.compile(r"^ratio: (?P<name>.+): (?P<value>\S+)$", re.MULTILINE)


def ratio_line(name: str, value: float) -> str:
    """As ``RATIO`` reads it."""
    return f"ratio: {name}: {value:.3g}"


def clock(call: Callable[[], object], device: str = "cpu") -> float:
    """Seconds that a call takes; on a GPU between two events, so that what is still queued counts."""
    if not device.startswith("cuda"):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    before.record()
    call()
    after.record()
    torch.cuda.synchronize(device)
    return before.elapsed_time(after) / 1000


def forget_peak(device: str = "cpu") -> float:
    """Forget the peak so far, of loading say; MiB that are held now."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak(device: str = "cpu") -> float:
    """MiB: the largest resident set of this process, or what torch held at most on a GPU.

    ``getrusage`` would count what a parent held, too.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _status("VmHWM")


def memory_of_children(device: str = "cpu") -> dict[str, str]:
    """The environment of a process whose memory is measured."""
    return {**os.environ, **({} if device.startswith("cuda") else ALLOCATOR)}


def save_random_model(folder: Path, family: str, dtype: str = "float32", **sizes: Any) -> str:
    """A Hugging Face folder with random weights, the same each time, as ``load_model`` takes it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from mcr_lens.tiny import weights_folder

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, bos_token_id=1, eos_token_id=2, **sizes)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    # The prompts are token ids, but TransformerLens wants a tokenizer in every folder.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(weights_folder() / name, folder)
    return str(folder)


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
