"""``load_prompts``: files, lists and Hugging Face data sets of texts, to tokenised prompts."""

import contextlib
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcr_lens.errors import InputError, one_line
from mcr_lens.models.hub import hub_or_cache
from mcr_lens.prompts.batches import Prompts, check_number, check_texts
from mcr_lens.prompts.files import json_rows, listed, read_cells, read_parquet, read_text, refuse_twice
from mcr_lens.validate import is_whole

__all__ = ["load_prompts", "load_split", "read_texts"]

_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")


def load_prompts(
    source: str | Path | Sequence[str],
    model: Any,
    *,
    field: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    prepend_bos: bool | None = None,
    config: str | None = None,
    split: str | None = None,
) -> Prompts:
    """Prompts from a file, a list of strings or a Hugging Face data set.

    Args:
        source: a ``.jsonl``, ``.json``, ``.csv``, ``.parquet`` or ``.txt`` file (a prompt a paragraph when
            the file has blank lines between them, else a prompt a line), a list of strings, or
            ``"hf:NAME_OR_FOLDER"`` for ``datasets`` (with ``config`` and ``split``).
        model: whose tokenizer is used.
        field: the column that holds the text; may be left out where there is only one.
        n: how many prompts to take: the first ones, or a random sample when ``seed`` is given.
        max_tokens: longer prompts are cut to this many tokens and counted.
        prepend_bos: ``None``: the tokenizer's BOS first, where it has one.

    Raises:
        InputError: one line that names the file, what is wrong with it and what would be right.
    """
    check_number("n", n, 1, "ask for at least one prompt")
    if isinstance(source, str | os.PathLike):
        texts, name = read_texts(source, field, config=config, split=split), os.fspath(source)
    else:
        name = "list of strings"
        texts = check_texts(source, name)
    if seed is not None:
        if not is_whole(seed):
            raise InputError(f"seed {seed!r}: use a whole number, or None for the first prompts")
        random.Random(seed).shuffle(texts)
    return Prompts.from_texts(
        texts[:n],
        model,
        max_tokens=max_tokens,
        prepend_bos=prepend_bos,
        source=name,
        options={"field": field, "n": n, "seed": seed, "config": config, "split": split},
    )


def read_texts(
    source: str | Path,
    field: str | None = None,
    *,
    config: str | None = None,
    split: str | None = None,
) -> list[str]:
    """The texts of a file or data set, untokenised; arguments and errors as in ``load_prompts``."""
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"texts are read from a file, not a {type(source).__name__}: give its path, or 'hf:NAME'"
        )
    source = os.fspath(source)
    if source.startswith("hf:"):
        return _column(list(load_split(source.removeprefix("hf:"), config, split)), field, source)
    path = Path(os.path.expanduser(source))
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path}: unknown file type; use one of {', '.join(_SUFFIXES)} or 'hf:NAME'")
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that is too long
        raise InputError(f"{path}: no such file")
    if path.suffix in (".csv", ".parquet"):
        return _column(_table(path), field, path)
    if path.suffix == ".txt":
        text = read_text(path)
        parts = text.split("\n\n") if "\n\n" in text.strip() else text.split("\n")
        return [part.strip() for part in parts if part.strip()]
    return _column(json_rows(path), field, path)


def _table(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return read_parquet(path).to_dict("records")  # type: ignore[return-value]
    header, rows = read_cells(path)
    refuse_twice(path, header)
    return [dict(zip(header, row, strict=True)) for row in rows]


def load_split(name: str, config: str | None, split: str | None) -> Any:
    """A split of a data set of the hub, or of a folder that ``datasets`` saved or can read."""
    import datasets

    if not name.strip():
        raise InputError("hf: names no data set: use hf:NAME, or hf:FOLDER of data files")
    folder = Path(name).expanduser()
    is_saved = any((folder / saved).is_file() for saved in ("dataset_info.json", "dataset_dict.json"))
    # What is on the disk needs no hub.
    with contextlib.nullcontext() if folder.exists() else hub_or_cache() as silence:
        try:
            found = datasets.load_from_disk(str(folder)) if is_saved else datasets.load_dataset(name, config)
        except Exception as error:  # the many errors of a library that reads the hub and the disk
            reason = one_line(error, 200)
            way_out = "give a local folder" if silence is None else f"{silence}, or give a local folder"
            raise InputError(f"hf:{name}: could not be loaded ({reason}); {way_out}") from error
    if isinstance(found, datasets.DatasetDict):
        splits = [str(each) for each in found]
        if split is None and len(splits) > 1:
            raise InputError(f"hf:{name}: choose a split (split=...): choose one of {listed(splits)}")
        chosen = split or splits[0]
        if chosen not in splits:
            raise InputError(f"hf:{name}: no split {chosen!r}; there are {listed(splits)}")
        found = found[chosen]
    return found


def _column(rows: list[Any], field: str | None, name: object) -> list[str]:
    """The text of each row: the row itself, or its field."""
    if all(isinstance(row, str) for row in rows):
        return rows
    for i, row in enumerate(rows):
        if not isinstance(row, str | dict):
            raise InputError(f"{name}: row {i} is a {type(row).__name__}, not an object or a text")
        if not isinstance(row, type(rows[0])):
            raise InputError(f"{name}: objects and texts are mixed, from row {i} on: give one kind")
    columns = list(rows[0])
    if not columns:
        raise InputError(f"{name}: row 0 has no fields; each object needs one that holds a text")
    if field is None and len(columns) == 1:
        field = columns[0]
    if field is None:
        raise InputError(f"{name}: choose a field, one of {listed(columns)}")
    texts = []
    for i, row in enumerate(rows):
        text = row.get(field)
        if field not in row:
            raise InputError(f"{name}: row {i} has no field {field!r}; it has {listed(row)}")
        if not isinstance(text, str):
            raise InputError(f"{name}: field {field!r} of row {i} is a {type(text).__name__}, not a text")
        texts.append(text)
    return texts
