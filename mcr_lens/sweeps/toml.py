"""A grid as a TOML file."""

import os
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from mcr_lens.errors import InputError, one_line
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.paths import plain_path
from mcr_lens.sweeps.arms import SweepArm
from mcr_lens.sweeps.fields import STRICT, refusing
from mcr_lens.sweeps.grid import Grid, SweepModel, SweepPrompts

__all__ = ["read_grid"]


def read_grid(path: str | Path, *, trust_remote_code: bool = False) -> Grid:
    """Read a grid.

    The file holds ``arms`` (``"baseline"``, or tables that name an ``intervention``; a list as its ``dose``
    stands for one arm each), tables ``[[models]]`` and ``[[prompts]]``, and, where wanted, ``sink_position``
    and a table ``[estimator]``. Their keys are the fields of ``SweepArm``, ``SweepModel``, ``SweepPrompts``
    and ``mcr_lens.Estimator``. Files of prompts are looked for beside the grid, and so are models that begin
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
    if os.path.exists(path) and not os.path.isfile(path):  # a device could be read for ever
        raise InputError(f"{path}: cannot be read (not a file); give a TOML file")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a TOML file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no TOMLDecodeError
        raise InputError(f"{path}: not valid TOML ({one_line(error, 200)})") from error
    try:
        return _grid(table, path.absolute().parent, trust_remote_code)
    except (ValueError, OverflowError) as error:  # an InputError, or a number too large to be shown
        raise InputError(f"{path}: {one_line(error)}") from error


@refusing("estimator")
@dataclass(frozen=True, config=STRICT)
class _StrictEstimator(Estimator):
    """The same fields, of the types that they should have."""


def _grid(table: dict[str, Any], folder: Path, trust_remote_code: bool) -> Grid:
    known = [field.name for field in fields(Grid)]
    unknown = [key for key in table if key not in known]
    if unknown:
        raise InputError(f"the grid: unknown key {unknown[0]!r}; use some of {', '.join(known)}")
    models = [_model(where, entry, folder) for where, entry in _entries(table, "models")]
    for i, model in enumerate(models):
        # A file comes from anywhere: that it asks for a stranger's code to be run is not enough.
        if "trust_remote_code" in model.options and not trust_remote_code:
            raise InputError(
                f"models[{i}]: options.trust_remote_code: a file alone cannot ask for code to be run; where "
                "you trust the model, give mcr-lens sweep --trust-remote-code, or read_grid "
                "trust_remote_code=True"
            )
    prompts = [_prompts(where, entry, folder) for where, entry in _entries(table, "prompts")]
    listed = _entries({"arms": ["baseline"]} | table, "arms")
    arms = [arm for where, entry in listed for arm in _arms(where, entry)]
    rest = {name: table[name] for name in ("sink_position",) if name in table}
    if "estimator" in table:
        estimator = _made(_StrictEstimator, "the grid", table["estimator"])
        rest["estimator"] = Estimator(**asdict(estimator))
    return Grid(models, prompts, arms, **rest)


def _entries(table: dict[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Each entry of a list of the file, and where it stands."""
    entries = table.get(name)
    if not isinstance(entries, list) or not entries:
        found = "is missing" if entries is None else f"= {entries!r}"
        example = '["baseline"]' if name == "arms" else f"tables [[{name}]]"
        raise InputError(f"{name} {found}: give one or more, as {example}")
    return ((f"{name}[{i}]", entry) for i, entry in enumerate(entries))


def _made(kind: Any, where: str, entry: Any) -> Any:
    """A table of the file as its dataclass, every error under the table's name."""
    if not isinstance(entry, dict):
        raise InputError(f"{where} = {entry!r}: use a table")
    try:
        return kind(**entry)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _model(where: str, entry: Any, folder: Path) -> SweepModel:
    model = _made(SweepModel, where, entry)
    if not model.source.startswith(("./", "../")):
        return model
    return replace(model, source=str((folder / model.source).resolve()))


def _prompts(where: str, entry: Any, folder: Path) -> SweepPrompts:
    prompts = _made(SweepPrompts, where, entry)
    return prompts if prompts.file is None else replace(prompts, source=str(folder / prompts.file))


def _arms(where: str, entry: Any) -> list[SweepArm]:
    """The arms of an entry: one, or one for each of its doses."""
    if isinstance(entry, str):
        entry = {"intervention": entry}
    if isinstance(entry, dict) and "intervention" not in entry:
        raise InputError(f"{where}: intervention is missing")
    if not isinstance(entry, dict) or not isinstance(entry.get("dose"), list):
        return [_made(SweepArm, where, entry)]
    if not entry["dose"]:
        raise InputError(f"{where}: dose = []: use a number, or a list of one or more")
    arms = []
    for dose in entry["dose"]:
        name = {"name": f"{entry['name']} dose={dose}"} if "name" in entry else {}
        arms.append(_made(SweepArm, where, entry | {"dose": dose} | name))
    return arms
