"""Copy a run's result into the package: `python -m train_tiny.bundle RUN`.

Takes the weights, configuration, tokenizer and training record, and thins the checkpoints to a few,
log-spaced, of which the first is the initialisation and the last the final model.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import load_file

from mcr_lens.tiny import weights_folder
from train_tiny.checkpoints import save_checkpoint

__all__ = ["main", "thin"]

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json")


def thin(steps: list[int], last: int, keep: int) -> list[int]:
    """At most `keep` steps: 0, `last`, and the latest of those between, which are log-spaced.

    Example:
        >>> thin([0, 16, 32, 64, 128], last=100, keep=4)
        [0, 32, 64, 100]
    """
    between = [step for step in steps if 0 < step < last]
    return [0, *between[max(0, len(between) - (keep - 2)) :], last]


def main(
    run: Annotated[Path, typer.Argument(help="Folder that the training wrote.")],
    to: Annotated[Path | None, typer.Option(help="Folder to fill; default: the package's.")] = None,
    keep: Annotated[int, typer.Option(help="Checkpoints to keep.")] = 13,
) -> None:
    """Fill the folder with the run's files and a few of its checkpoints."""
    to = to or weights_folder()
    record = json.loads((run / "training.json").read_text())
    last = record["curves"][-1]["step"]
    (to / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(run / name, to / name)
    for path in (to / "checkpoints").glob("step_*.safetensors"):
        path.unlink()
    files = (run / "checkpoints").glob("step_*.safetensors")
    steps = thin(sorted(int(path.stem.removeprefix("step_")) for path in files), last, keep)
    for step in steps[:-1]:
        name = f"step_{step:06d}.safetensors"
        shutil.copyfile(run / "checkpoints" / name, to / "checkpoints" / name)
    save_checkpoint(load_file(run / "model.safetensors"), to / "checkpoints", last)
    size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file())
    print(f"{to}: step {last}, {len(steps)} checkpoints, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
