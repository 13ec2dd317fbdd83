"""Files of texts as they are written: bytes to text, to JSON values, to the cells of a table."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcr_lens.errors import InputError, one_line

if TYPE_CHECKING:
    import pandas

__all__ = ["json_rows", "listed", "read_cells", "read_parquet", "read_text", "refuse_twice"]


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
        place = text.index("\0")
        raise InputError(f"{path}: not a text file (character {place} is NUL); convert it to UTF-8 text")
    return text


def json_rows(path: Path) -> list[Any]:
    """The values of a ``.json`` list, or of a ``.jsonl`` file with one value a line.

    Raises:
        InputError: for what is not JSON, naming the line, or not a list.
    """
    text = read_text(path)
    if path.suffix == ".json":
        try:
            rows = json.loads(text, object_pairs_hook=_fields)
        except (ValueError, RecursionError) as error:
            raise _unreadable(path, f"invalid JSON: {error}", "one value a line goes in a .jsonl") from error
        if not isinstance(rows, list):
            raise InputError(f"{path}: holds a {type(rows).__name__}; give a list of texts or of objects")
        return rows
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line, object_pairs_hook=_fields))
            except (ValueError, RecursionError) as error:
                raise _unreadable(
                    path, f"invalid JSON on line {number}: {error}", "mend that line"
                ) from error
    return rows


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's fields; of a name that stands twice the reader would silently keep the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return fields


def read_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """The first row of a ``.csv`` or ``.tsv`` file and the others, every cell a text as it is written.

    A ``.tsv`` has no quoting. Cells that are missing at the end of a row are empty.

    Raises:
        InputError: for a file that cannot be parsed, or a row of more cells than the first.
    """
    import pandas

    tabs: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    try:
        if b"\0" in path.read_bytes():  # binary, or UTF-16; pandas takes it for text
            raise ValueError("it holds NUL, convert it to UTF-8 text")
        # Without a header, a line with too many cells is an error; with one, pandas would take the first
        # cell for an index, or leave the last one out.
        table = pandas.read_csv(
            path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig", **tabs
        )
    except Exception as error:  # pandas raises what it likes on a broken file
        raise _unreadable(path, one_line(error, 200)) from error
    first, *others = table.values.tolist()
    return first, others


def read_parquet(path: Path) -> pandas.DataFrame:
    """The table of a ``.parquet`` file.

    Raises:
        InputError: for a file that is none, or cut short.
    """
    import pandas

    try:
        table = pandas.read_parquet(path)
        for place in range(table.shape[1]):  # a damaged text is only found when it is asked for
            table.iloc[:, place].tolist()
        return table
    except Exception as error:  # pandas and pyarrow raise what they like on a broken file
        raise _unreadable(path, one_line(error, 200)) from error


def listed(names: Iterable[object], most: int = 200) -> str:
    """Names from a file for a message: in one line, whatever they hold, and not all of hundreds."""
    text = " ".join(", ".join(map(str, names)).split())
    return text if len(text) <= most else f"{text[:most]} ..."


def refuse_twice(path: Path, header: list[str]) -> None:
    """Raise ``InputError`` for a name that two columns have: nobody could say which is meant."""
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise InputError(f"{path}: column {twice[0]!r} stands there twice; rename one")


def _unreadable(path: Path, reason: str, way_out: str = "give a whole one") -> InputError:
    return InputError(f"{path}: not a readable {path.suffix} file ({reason}); {way_out}")
