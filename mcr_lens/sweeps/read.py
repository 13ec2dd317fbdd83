"""A grid as a TOML file."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from mcr_lens.errors import InputError, one_line
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.sweeps.arms import SweepArm
from mcr_lens.sweeps.fields import check_entries
from mcr_lens.sweeps.grid import BUNDLED, Grid, SweepModel, SweepPrompts

__all__ = ["read_grid"]


def read_grid(path: str | Path, *, trust_remote_code: bool = False) -> Grid:
    """Read a grid.

    The file holds ``arms`` (``"baseline"``, or tables that name an ``intervention``; a list as its ``dose``
    stands for one arm each), tables ``[[models]]`` and ``[[prompts]]``, and, where wanted, ``sink_position``
    and a table ``[estimator]``. Their keys are the fields of ``SweepArm``, ``SweepModel``, ``SweepPrompts``
    and ``Estimator``. Files of prompts are looked for beside the grid, and so are models that begin with
    ``./`` or ``../``.

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
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"a grid is read from a file, not a {type(path).__name__}: give its path")
    path = Path(os.path.expanduser(path))
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


def _grid(table: Mapping[str, Any], folder: Path, trust_remote_code: bool) -> Grid:
    _check_keys(table, Grid, "the grid")
    models = [
        _beside_model(_made(SweepModel, entry, f"models[{i}]"), folder)
        for i, entry in enumerate(_listed(table, "models"))
    ]
    if not trust_remote_code:
        for i, model in enumerate(models):
            _refuse_code(model, f"models[{i}]")
    prompts = [
        _beside(_made(SweepPrompts, entry, f"prompts[{i}]"), folder)
        for i, entry in enumerate(_listed(table, "prompts"))
    ]
    arms = [
        arm
        for i, entry in enumerate(_listed(table, "arms") if "arms" in table else ["baseline"])
        for arm in _arms(entry, f"arms[{i}]")
    ]
    rest = {name: table[name] for name in ("sink_position",) if name in table}
    if "estimator" in table:
        if isinstance(table["estimator"], Mapping):
            _check_keys(table["estimator"], Estimator, "estimator")
            check_entries(table["estimator"], Estimator, "estimator")
        rest["estimator"] = _made(Estimator, table["estimator"], "estimator")
    return Grid(models, prompts, arms, **rest)


def _arms(entry: Any, where: str) -> list[SweepArm]:
    """The arms of an entry: one, or one for each of its doses."""
    if isinstance(entry, str):
        entry = {"intervention": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("dose"), list):
        return [_made(SweepArm, entry, where)]
    doses = entry["dose"]
    if not doses:
        raise InputError(f"{where}: dose = []: use a number, or a list of one or more")
    named = entry.get("name")
    return [
        _made(
            SweepArm,
            {**entry, "dose": dose, **({} if named is None else {"name": f"{named} dose={dose}"})},
            where,
        )
        for dose in doses
    ]


def _listed(table: Mapping[str, Any], name: str) -> list[Any]:
    entries = table.get(name)
    if not isinstance(entries, list) or not entries:
        given = "is missing" if entries is None else f"= {entries!r}"
        example = '["baseline"]' if name == "arms" else f"tables [[{name}]]"
        raise InputError(f"{name} {given}: give one or more, as {example}")
    return entries


def _made(kind: Any, entry: Any, where: str) -> Any:
    """A dataclass of a table, every error under the table's name."""
    if not isinstance(entry, Mapping):
        raise InputError(f"{where} = {entry!r}: use a table")
    _check_keys(entry, kind, where)
    needed = [
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING and field.name not in entry
    ]
    if kind is SweepArm and "intervention" not in entry:
        needed = ["intervention"]
    if needed:
        raise InputError(f"{where}: {needed[0]} is missing")
    try:
        return kind(**entry)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _check_keys(entry: Mapping[str, Any], kind: Any, where: str) -> None:
    known = [field.name for field in fields(kind)]
    unknown = [key for key in entry if key not in known]
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; use some of {', '.join(known)}")


def _beside(prompts: SweepPrompts, folder: Path) -> SweepPrompts:
    if prompts.source in BUNDLED or prompts.file is None:
        return prompts
    return replace(prompts, source=str(folder / prompts.file))


def _refuse_code(model: SweepModel, where: str) -> None:
    """A file comes from anywhere: that it asks for a stranger's code to be run is not enough."""
    if "trust_remote_code" in model.options:
        raise InputError(
            f"{where}: options.trust_remote_code: a file alone cannot ask for code to be run; where you "
            "trust the model, give mcr-lens sweep --trust-remote-code, or read_grid trust_remote_code=True"
        )


def _beside_model(model: SweepModel, folder: Path) -> SweepModel:
    if not model.source.startswith(("./", "../")):
        return model
    return replace(model, source=str((folder / model.source).resolve()))
