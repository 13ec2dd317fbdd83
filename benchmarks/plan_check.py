"""Do plans hold? ``python benchmarks/plan_check.py``: predicted against measured memory.

Each shape, with random weights, is planned and then run in a process of its own. Memory is that process's
peak resident set (``VmHWM``, so Linux is needed: what ``getrusage`` tells includes the parent's), Python and
libraries included, from start to end, so loading counts, with the files it maps. What matters are the
ratios, measured / predicted. Shapes marked ``held out`` were not looked at while this was written.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# glibc keeps freed blocks for later; told to give them back at once, the resident set is what is in use.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
# A Llama shape and the GPT-2-small shape of the other benchmarks, one that only fits in chunks, and one small
# enough for a test.
LLAMA = {
    "num_hidden_layers": 8, "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 8,
    "intermediate_size": 1376, "vocab_size": 8192, "max_position_embeddings": 4096,
}  # fmt: skip
SMALL = LLAMA | {"num_hidden_layers": 3, "hidden_size": 256, "intermediate_size": 688, "vocab_size": 4096}
QWEN2 = {
    "num_hidden_layers": 10, "hidden_size": 640, "num_attention_heads": 10, "num_key_value_heads": 2,
    "intermediate_size": 1792, "vocab_size": 32000,
    "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
NEOX = {
    "num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536,
    "vocab_size": 16000, "max_position_embeddings": 2048,
}  # fmt: skip
WIDE = LLAMA | {"num_hidden_layers": 4, "hidden_size": 1024, "num_attention_heads": 16,
                "num_key_value_heads": 16, "intermediate_size": 2816}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"family": None, "lengths": [256] * 64},
    "llama": {"family": "llama", "config": LLAMA, "lengths": [512] * 16},
    "llama, bfloat16": {"family": "llama", "config": LLAMA, "lengths": [512] * 16, "dtype": "bfloat16"},
    "llama, chunks": {"family": "llama", "config": LLAMA, "lengths": [4096], "chunk": 256},
    "gpt2-small": {"family": "gpt2", "config": {"n_positions": 1024}, "lengths": [512] * 8},
    "small": {"family": "llama", "config": SMALL, "lengths": [512] * 16},
    "held out: qwen2": {"family": "qwen2", "config": QWEN2, "lengths": [384] * 12},
    "held out: neox, chunks": {"family": "gpt_neox", "config": NEOX, "lengths": [1536] * 2, "chunk": 384},
    "held out: hooked, bf16": {
        "family": "llama",
        "config": WIDE,
        "lengths": [256] * 16,
        "dtype": "bfloat16",
        "backend": "hooked_transformer",
    },
    "held out: wide": {"family": "llama", "config": WIDE, "lengths": [200] * 24},
}


def folder_of(name: str, above: Path) -> str:
    """What ``load_model`` is given: the bundled model, or a folder of random weights."""
    shape = SHAPES[name]
    if shape["family"] is None:
        return "tiny"
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from mcr_lens.tiny import weights_folder

    config = AutoConfig.for_model(shape["family"], bos_token_id=1, eos_token_id=1, **shape["config"])
    disable_progress_bar()
    AutoModelForCausalLM.from_config(config).save_pretrained(above / "model")
    for path in weights_folder().glob("tokenizer*.json"):
        shutil.copy(path, above / "model")
    return str(above / "model")


def resident_peak() -> int:
    """Bytes of this process's largest resident set, since it was started."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def run_one(name: str, source: str) -> dict[str, float]:
    """Load and profile in this process."""
    import torch

    import mcr_lens as mcr

    shape = SHAPES[name]
    # So that everything is imported, and first use has been paid for.
    mcr.profile(mcr.load_model("tiny"), mcr.Prompts.from_tokens([[0, 11, 12, 13]]), progress=False)
    libraries = resident_peak()
    model = mcr.load_model(source, dtype=shape.get("dtype"), backend=shape.get("backend", "auto"))
    loaded = resident_peak()
    tokens = torch.randint(3, 1000, (len(shape["lengths"]), shape["lengths"][0]))
    prompts = mcr.Prompts.from_tokens(tokens)
    mcr.profile(model, prompts, chunk=shape.get("chunk"), progress=False)
    return {"peak": resident_peak(), "libraries": libraries, "loaded": loaded}


def compare(name: str) -> dict[str, float]:
    """Plan, then measure."""
    from mcr_lens.models import plan

    shape = SHAPES[name]
    dtype = shape.get("dtype", "float32")
    with tempfile.TemporaryDirectory() as above:
        source = folder_of(name, Path(above))
        planned = plan(
            source,
            shape["lengths"],
            dtype=dtype,
            devices=0,
            batch_size="auto",
            chunk=shape.get("chunk"),
            backend=shape.get("backend", "auto"),
        )
        # Files of another dtype are mapped and count as resident; the plan leaves them out, because the
        # system takes those pages back.
        files = [] if dtype == "float32" else Path(source).glob("*.safetensors")
        mapped = sum(path.stat().st_size for path in files)
        command = [sys.executable, __file__, "--one", name, "--source", source]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    setting = planned.settings[0]
    predicted = max(setting.host_bytes, setting.loading_bytes + mapped)
    return {"predicted": predicted, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    """A row a shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SHAPES)}; all when left out")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--source", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments.one, arguments.source)))
        return
    print("shape                   predicted MB  peak MB  ratio")
    for name in arguments.names or SHAPES:
        row = compare(name)
        print(
            f"{name:23s} {row['predicted'] / 1e6:12.0f} {row['peak'] / 1e6:8.0f}"
            f" {row['peak'] / row['predicted']:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
