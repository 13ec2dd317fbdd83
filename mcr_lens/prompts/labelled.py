"""Texts with labels, for probes: prompts and labels that stay aligned whatever the tokenizer drops."""

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mcr_lens.errors import InputError, one_line
from mcr_lens.models import Model
from mcr_lens.prompts import Prompts

__all__ = ["Labelled", "load_labelled", "too_short"]

_SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")


class Labelled(NamedTuple):
    """Prompts and the label of each; unpacks as ``prompts, labels``."""

    prompts: Prompts
    labels: list[Any]


def load_labelled(
    source: str | Path | pd.DataFrame | Any,
    model: Model,
    *,
    text: str | int = "text",
    label: str | int = "label",
    n: int | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    prepend_bos: bool | None = None,
    config: str | None = None,
    split: str | None = None,
) -> Labelled:
    """Prompts with their labels, from a table with a column of each.

    Args:
        source: a ``.tsv``, ``.csv``, ``.jsonl``, ``.json`` or ``.parquet`` file, a ``pandas.DataFrame``, a
            ``datasets.Dataset``, or ``"hf:NAME_OR_FOLDER"`` (with ``config`` and ``split``). A ``.tsv`` has
            no quoting; labels of ``.tsv`` and ``.csv`` are texts as they are written.
        model: whose tokenizer is used.
        text: the column of the texts: its name, or for a ``.tsv`` or ``.csv`` without a header its number.
        label: the column of the labels, likewise.
        n: how many rows to take: the first ones, or a random sample when ``seed`` is given.
        max_tokens: longer prompts are cut to this many tokens and counted.
        prepend_bos: as in ``load_prompts``.

    Texts of fewer than 2 tokens are left out with their labels and counted in ``prompts.dropped``.

    Raises:
        InputError: one line that names the source, what is wrong with it and what would be right.

    Example:
        >>> import mcr_lens as mcr
        >>> table = pd.DataFrame({"text": ["so dull", "a joy", ""], "label": [0, 1, 1]})
        >>> prompts, labels = load_labelled(table, mcr.load_model("tiny"))
        >>> len(prompts), labels
        (2, [0, 1])
    """
    if n is not None and n < 1:
        raise InputError(f"n = {n}: ask for at least one row")
    name = str(source) if isinstance(source, str | Path) else type(source).__name__
    table = _table(source, config, split, header=not (isinstance(text, int) and isinstance(label, int)))
    rows = list(zip(_column(table, text, name), _column(table, label, name), strict=True))
    for number, (given, its_label) in enumerate(rows):
        if not isinstance(given, str) or pd.isna(its_label):
            raise InputError(f"{name}: row {number} lacks a text or a label; leave it out")
    if seed is not None:
        random.Random(seed).shuffle(rows)
    texts = [row[0] for row in rows[:n]]
    options = {"text": text, "label": label, "n": n, "seed": seed, "config": config, "split": split}
    prompts = Prompts.from_texts(
        texts, model, max_tokens=max_tokens, prepend_bos=prepend_bos, source=name, options=options
    )
    dropped = set(too_short(texts, model, prompts))
    return Labelled(prompts, [row[1] for number, row in enumerate(rows[:n]) if number not in dropped])


def too_short(texts: Sequence[str], model: Model, prompts: Prompts) -> list[int]:
    """Which of the texts ``Prompts.from_texts`` left out of ``prompts``, as places in ``texts``."""
    if not prompts.dropped:
        return []
    bos = model.tokenizer.bos_token_id
    is_prepended = prompts.bos.endswith("prepended")
    encoded = model.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    added = [0 if ids[:1] == [bos] or not is_prepended else 1 for ids in encoded]
    found = [place for place, ids in enumerate(encoded) if len(ids) + added[place] < 2]
    assert len(found) == prompts.dropped, "texts and prompts are out of step"
    return found


def _table(source: Any, config: str | None, split: str | None, header: bool) -> pd.DataFrame:
    """The source as a table; without a header the columns are numbers."""
    if isinstance(source, pd.DataFrame):
        return source
    if not isinstance(source, str | Path):
        if not hasattr(source, "to_pandas"):
            raise InputError(f"{type(source).__name__} is no table: give a path, a DataFrame or a Dataset")
        return source.to_pandas()
    if str(source).startswith("hf:"):
        return _from_datasets(str(source).removeprefix("hf:"), config, split)
    path = Path(source).expanduser()
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path}: unknown file type; use one of {', '.join(_SUFFIXES)} or 'hf:NAME'")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return _read(path, header)
    except Exception as error:  # pandas, json and pyarrow raise what they like on a broken file
        reason = one_line(error, 200)
        raise InputError(f"{path}: not a readable {path.suffix} file ({reason})") from error


def _read(path: Path, header: bool) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix in (".tsv", ".csv"):
        tabs = {"sep": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
        first = 0 if header else None
        return pd.read_csv(
            path,
            header=first,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
            **tabs,
        )
    text = path.read_text(encoding="utf-8-sig")
    rows = (
        json.loads(text) if path.suffix == ".json" else map(json.loads, filter(str.strip, text.split("\n")))
    )
    return pd.DataFrame(list(rows), dtype=object)


def _from_datasets(name: str, config: str | None, split: str | None) -> pd.DataFrame:
    import datasets

    folder = Path(name).expanduser()
    is_saved = any((folder / saved).is_file() for saved in ("dataset_info.json", "dataset_dict.json"))
    try:
        found = datasets.load_from_disk(str(folder)) if is_saved else datasets.load_dataset(name, config)
    except Exception as error:  # the many errors of a library that reads the hub and the disk
        reason = one_line(error, 200)
        raise InputError(f"hf:{name}: could not be loaded ({reason}); give a local folder") from error
    if isinstance(found, datasets.DatasetDict):
        splits = [str(each) for each in found]
        if split not in splits and (split is not None or len(splits) > 1):
            raise InputError(f"hf:{name}: split {split!r}: choose one of {', '.join(splits)}")
        found = found[split or splits[0]]
    assert isinstance(found, datasets.Dataset)
    return pd.DataFrame(found.to_pandas())


def _column(table: pd.DataFrame, column: str | int, name: str) -> list[Any]:
    if column not in table.columns:
        raise InputError(f"{name}: no column {column!r}; there are {', '.join(map(str, table.columns))}")
    return table[column].tolist()
