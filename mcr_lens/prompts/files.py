"""Texts and tables as they lie on a disk or on the hub: one reader for prompts and for labelled texts."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcr_lens.errors import InputError, one_line
from mcr_lens.models.hub import hub_or_cache
from mcr_lens.validate import did_you_mean

if TYPE_CHECKING:
    import pandas

__all__ = [
    "check_source",
    "column_of",
    "field_of",
    "load_split",
    "name_list",
    "read_table",
    "read_text",
    "rows_of_split",
]

_TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def check_source(source: str | Path, *more: str) -> Path | None:
    """The file that a source names; ``None`` for ``hf:NAME``. Nothing is read.

    Raises:
        InputError: for a file that does not exist, or of a kind that is neither a table nor among ``more``.
    """
    name = os.fspath(source)
    if name.startswith("hf:"):
        return None
    path = Path(os.path.expanduser(name))
    if path.suffix.lower() not in (*_TABLES, *more):
        kinds = ", ".join((*_TABLES, *more))
        raise InputError(f"{path}: unknown file type; use one of {kinds} or 'hf:NAME'")
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that is too long
        raise InputError(f"{path}: no such file")
    return path


def read_text(path: Path) -> str:
    """Contents as text: UTF-8 with or without BOM, any line ends.

    Raises:
        InputError: for what is not UTF-8, or holds a NUL byte, as binary files and UTF-16 do.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if "\0" in text:
        raise InputError(
            f"{path}: not a text file (character {text.index(chr(0))} is NUL); convert it to UTF-8 text"
        )
    return text


def read_table(
    source: str | Path, config: str | None = None, split: str | None = None, *, header: bool = True
) -> pandas.DataFrame:
    """A file or data set as a table, its cells as they are written.

    Texts without a name, such as a list of strings in a ``.json``, are the column ``text``. A ``.csv`` may be
    delimited by commas, semicolons, tabs or bars, as its first lines are; a ``.tsv`` has no quoting.

    Args:
        header: whether the first row of a ``.csv`` or ``.tsv`` names the columns; otherwise they are numbers.

    Raises:
        InputError: for what cannot be read, in one line with the way out.
    """
    import pandas

    path = check_source(source)
    if path is None:
        return load_split(str(source).removeprefix("hf:"), config, split).to_pandas()
    kind = path.suffix.lower()
    try:
        if kind in (".jsonl", ".json"):
            return _json_table(read_text(path), kind)
        if kind != ".parquet":
            return _cells(path, kind, header)
        table = pandas.read_parquet(path)
        for place in range(table.shape[1]):  # a damaged text is only noticed when it is asked for
            table.iloc[:, place].tolist()
        return table
    except InputError:
        raise
    except Exception as error:  # pandas and pyarrow raise what they like on a broken file
        reason = one_line(error, 200)
        raise InputError(f"{path}: not a readable {kind} file ({reason}); give a whole one") from error


def column_of(table: pandas.DataFrame, column: str | int, source: object) -> list[Any]:
    """The values of a column, or of a field inside it (``a.b``); arrays of other libraries are lists.

    Raises:
        InputError: with the names of the others where it does not exist.
    """
    if column in table.columns:
        return [_plain(value) for value in table[column].tolist()]
    outer, _, inner = str(column).partition(".")
    if not inner or outer not in table.columns:
        raise _no_field(source, column, table.columns)
    return [field_of({outer: value}, str(column), source) for value in table[outer].tolist()]


def field_of(row: Mapping[str, Any], field: str, source: object) -> Any:
    """A field of a row, or one inside it: ``a.b``, and ``a.0.b`` in a list.

    Raises:
        InputError: with the names of the others where it does not exist.
    """
    if field in row:
        return _plain(row[field])
    value: Any = row
    for name in field.split("."):
        value = _plain(value)
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise _no_field(source, field, value if isinstance(value, Mapping) else row, name)
    return _plain(value)


def _no_field(source: object, field: object, names: Iterable[object], part: str | None = None) -> InputError:
    inside = f" ({part!r} is not there)" if part not in (None, field) else ""
    near = did_you_mean(str(part or field), map(str, names))
    return InputError(f"{source}: no field {field!r}{inside}; there are {name_list(names)}{near}")


def _plain(value: Any) -> Any:
    """Lists in place of the arrays that parquet files are read as."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def _json_table(text: str, kind: str) -> pandas.DataFrame:
    import pandas

    rows = []
    for number, line in enumerate([text] if kind == ".json" else text.split("\n"), start=1):
        try:
            if line.strip() or kind == ".json":
                rows.append(json.loads(line, object_pairs_hook=_fields))
        except (ValueError, RecursionError) as error:
            where = "one value a line goes in a .jsonl" if kind == ".json" else f"on line {number}"
            raise ValueError(f"invalid JSON, {where}: {error}") from error
    if kind == ".json":
        (rows,) = rows
        if not isinstance(rows, list):
            raise ValueError(f"it holds a {type(rows).__name__}, not a list of texts or of objects")
    if all(isinstance(row, str) for row in rows):
        return pandas.DataFrame({"text": rows}, dtype=object)
    if kind == ".jsonl" and len(rows) == 1 and isinstance(rows[0], list):
        raise ValueError("it holds one JSON list: name it .json")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is a {type(row).__name__}; give objects alone, or texts alone")
    return pandas.DataFrame(rows, dtype=object)


def _fields(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object's fields, or columns; of a name that stands twice a reader would silently keep the last."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands there twice; rename one")
    return dict(pairs)


def _cells(path: Path, kind: str, header: bool) -> pandas.DataFrame:
    """Every cell a text; cells that are missing at the end of a row are empty."""
    import pandas

    style: dict[str, Any] = {"sep": _delimiter(read_text(path))}
    if kind == ".tsv":
        style = {"sep": "\t", "quoting": csv.QUOTE_NONE}
    # Without a header, a line with too many cells is an error; with one, pandas would take the first cell for
    # an index, or leave the last one out.
    table = pandas.read_csv(
        path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig", **style
    )
    if header:
        names = _fields([(name, None) for name in table.iloc[0]])
        table = table[1:].set_axis([*names], axis=1)
    return table


def _delimiter(text: str) -> str:
    """The one that the first line has; of several, the one that is as frequent in the lines that follow."""
    first = text.split("\n", 1)[0]
    candidates = [sign for sign in ",;\t|" if sign in first]
    if len(candidates) < 2:  # a single column has none
        return (*candidates, ",")[0]
    with contextlib.suppress(csv.Error):  # the lines do not agree
        return csv.Sniffer().sniff(text[:10_000], "".join(candidates)).delimiter
    return ","


def load_split(name: str, config: str | None, split: str | None, *, streaming: bool = False) -> Any:
    """A split of a data set of the hub, or of a folder that ``datasets`` saved or can read.

    Args:
        streaming: rows are fetched as they are read; otherwise the whole data set is.
    """
    import datasets

    if not name.strip():
        raise InputError("hf: names no data set: use hf:NAME, or hf:FOLDER of data files")
    folder = Path(name).expanduser()
    is_saved = any((folder / saved).is_file() for saved in ("dataset_info.json", "dataset_dict.json"))
    # What is on the disk needs no hub.
    with contextlib.nullcontext() if folder.exists() else hub_or_cache() as silence:
        try:
            if is_saved:
                data = datasets.load_from_disk(str(folder))
            else:
                data = datasets.load_dataset(name, config, streaming=streaming)
        except Exception as error:  # the many errors of a library that reads the hub and the disk
            raise _not_loaded(name, error, silence) from error
    if not isinstance(data, dict):
        return data
    splits = [str(each) for each in data]
    if split is None and len(splits) > 1:
        raise InputError(f"hf:{name}: choose a split (split=...): choose one of {name_list(splits)}")
    if split not in (None, *splits):
        near = did_you_mean(str(split), splits)
        raise InputError(f"hf:{name}: no split {split!r}; there are {name_list(splits)}{near}")
    return data[split or splits[0]]


def rows_of_split(name: str, config: str | None, split: str | None) -> Iterator[Mapping[str, Any]]:
    """The rows of a split, fetched as they are read; arguments and errors as in ``load_split``."""
    rows = iter(load_split(name, config, split, streaming=True))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # a file of the data set that is broken, or a hub that is gone
            raise _not_loaded(name, error, None) from error
        yield row


def _not_loaded(name: str, error: Exception, silence: str | None) -> InputError:
    way_out = ", or ".join(filter(None, [silence, "give a local folder"]))
    if Path(name).expanduser().exists():
        way_out = "give a folder of data files, or name one of its configurations (config=...)"
    return InputError(f"hf:{name}: could not be loaded ({one_line(error, 200)}); {way_out}")


def name_list(names: Iterable[object], most: int = 200) -> str:
    """Names from a file for a message: in one line, whatever they hold, and not all of hundreds."""
    text = " ".join(", ".join(map(str, names)).split())
    return text if len(text) <= most else f"{text[:most]} ..."
