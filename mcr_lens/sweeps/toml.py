"""A grid as a TOML file."""

import os
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcr_lens.errors import InputError, one_line
from mcr_lens.prompts.files import read_text
from mcr_lens.sweeps.grid import Grid
from mcr_lens.validate import plain_path

__all__ = ["read_grid"]


def read_grid(path: str | Path, *, trust_remote_code: bool = False) -> Grid:
    """Read a grid.

    The file holds ``arms`` (``"baseline"``, or tables that name an ``intervention``; a list as its ``dose``
    stands for one arm each), tables ``[[models]]`` and ``[[prompts]]``, and, where wanted, ``sink_position``
    and a table ``[estimator]``. Their keys are the fields of ``SweepArm``, ``SweepModel``, ``SweepPrompts``
    and ``metrics.Estimator``. Files of prompts are looked for beside the grid, and so are models that begin
    with ``./`` or ``../``.

    Args:
        trust_remote_code: let the file's models bring code of their own, where their ``options`` ask for it.

    Raises:
        InputError: one line that names the file, the key, what it holds and what is allowed.

    Example::

        arms = ["baseline", {intervention = "ablate_mlp_write", layers = "emergence", dose = [0.5, 1.0]}]

        [[models]]
        source = "EleutherAI/pythia-410m"
        revisions = ["step512", "step143000"]

        [[prompts]]
        source = "hf:openai/gsm8k"
        config = "main"
        split = "test"
        field = "question"
        n = 64
        max_tokens = 256
    """
    path = plain_path(path)
    if not os.path.isfile(path):  # a device could be read for ever
        raise InputError(f"{path}: cannot be read (not a file); give a TOML file")
    text = read_text(path)
    try:
        return _grid(tomllib.loads(text), path.absolute().parent, trust_remote_code)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, OverflowError, RecursionError) as error:  # such as a number of thousands of digits
        raise InputError(f"{path}: not valid TOML ({one_line(error, 200)})") from error


def _grid(table: dict[str, Any], folder: Path, trust_remote_code: bool) -> Grid:
    if isinstance(table.get("arms"), list):
        table["arms"] = [arm for i, entry in enumerate(table["arms"]) for arm in _arms(f"arms[{i}]", entry)]
    grid = Grid(**table)
    for i, model in enumerate(grid.models):
        # A file comes from anywhere: that it asks for a stranger's code to be run is not enough.
        if "trust_remote_code" in model.options and not trust_remote_code:
            raise InputError(
                f"models[{i}]: options.trust_remote_code: a file alone cannot ask for code to be run; where "
                "you trust the model, give mcr-lens sweep --trust-remote-code, or read_grid "
                "trust_remote_code=True"
            )
    models = [
        replace(model, source=str((folder / model.source).resolve()))
        if model.source.startswith(("./", "../"))
        else model
        for model in grid.models
    ]
    prompts = [replace(each, source=str(folder / each.file)) if each.file else each for each in grid.prompts]
    return replace(grid, models=models, prompts=prompts)


def _arms(where: str, entry: Any) -> list[Any]:
    """The tables of an entry: one, or one for each of its doses."""
    if isinstance(entry, str):
        return [{"intervention": entry}]
    if isinstance(entry, dict) and "intervention" not in entry:
        raise InputError(f"{where}: intervention is missing")
    if not isinstance(entry, dict) or not isinstance(entry.get("dose"), list) or not entry["dose"]:
        return [entry]
    arms = [entry | {"dose": dose} for dose in entry["dose"]]
    return [arm | {"name": f"{arm['name']} dose={arm['dose']}"} if "name" in arm else arm for arm in arms]
