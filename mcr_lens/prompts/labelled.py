"""Texts with labels, for probes: prompts and labels that stay aligned whatever the tokenizer drops."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mcr_lens.errors import InputError
from mcr_lens.models import Model
from mcr_lens.prompts.batches import Prompts, check_number
from mcr_lens.prompts.files import column_of, read_table

__all__ = ["Labelled", "load_labelled", "too_short"]


@dataclass(frozen=True)
class Labelled:
    """Prompts and the label of each; unpacks as ``prompts, labels``.

    Attributes:
        prompts, labels: as many of each.
        groups: the group of each prompt, for ``linear_probes(..., groups=)``; ``None`` where no column of
            groups was named.
    """

    prompts: Prompts
    labels: list[Any]
    groups: list[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.prompts, self.labels))


def load_labelled(
    source: str | Path | pd.DataFrame | Any,
    model: Model,
    *,
    text: str | int = "text",
    label: str | int = "label",
    group: str | int | None = None,
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
        group: a column of what rows may share, such as their author or the text that they were cut from,
            likewise; it becomes ``groups``.
        n: how many prompts to take: the first ones that can be used, or a random sample when ``seed`` is
            given.
        max_tokens: longer prompts are cut to this many tokens and counted.
        prepend_bos: as in ``load_prompts``.

    Texts of fewer than 2 tokens are left out with their labels and groups and counted in
    ``prompts.dropped``.

    Raises:
        InputError: one line that names the source, what is wrong with it and what would be right.

    Example:
        >>> import mcr_lens as mcr
        >>> table = pd.DataFrame({"text": ["so dull", "a joy", ""], "label": [0, 1, 1]})
        >>> prompts, labels = load_labelled(table, mcr.load_model("tiny"))
        >>> len(prompts), labels
        (2, [0, 1])
        >>> table["writer"] = ["Ann", "Ben", "Ben"]
        >>> load_labelled(table, mcr.load_model("tiny"), group="writer").groups
        ['Ann', 'Ben']
    """
    check_number("n", n, 1, "ask for at least one row")
    name = str(source) if isinstance(source, str | Path) else type(source).__name__
    columns = [text, label] if group is None else [text, label, group]
    table: Any = source
    if isinstance(source, str | Path):
        # Without a header the columns are numbers.
        header = not all(isinstance(column, int) for column in columns)
        table = read_table(source, config, split, header=header)
    elif hasattr(source, "to_pandas"):
        table = source.to_pandas()
    elif not isinstance(source, pd.DataFrame):
        raise InputError(f"{name} is no table: give a path, a DataFrame or a Dataset")
    rows = list(zip(*(column_of(table, column, name) for column in columns), strict=True))
    _check_rows(rows, name)
    if seed is not None:
        random.Random(seed).shuffle(rows)
    texts = [row[0] for row in rows]
    options = {"text": text, "label": label, "n": n, "seed": seed, "config": config, "split": split}
    options |= {} if group is None else {"group": group}
    prompts = Prompts.from_texts(
        texts, model, n=n, max_tokens=max_tokens, prepend_bos=prepend_bos, source=name, options=options
    )
    n_read = len(prompts) + prompts.dropped
    dropped = set(too_short(texts[:n_read], model, prompts))
    rows = [row for place, row in enumerate(rows[:n_read]) if place not in dropped]
    return Labelled(prompts, [row[1] for row in rows], None if group is None else [row[2] for row in rows])


def too_short(texts: Sequence[str], model: Model, prompts: Prompts) -> list[int]:
    """Which of the texts ``Prompts.from_texts`` left out of ``prompts``, as places in ``texts``."""
    if not prompts.dropped:
        return []
    first = [model.tokenizer.bos_token_id] if prompts.bos.endswith("prepended") else []
    encoded = model.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    whole = [ids if ids[:1] == first else first + ids for ids in encoded]
    places = [place for place, ids in enumerate(whole) if len(ids) < 2]
    assert len(places) == prompts.dropped, "texts and prompts are out of step"
    return places


def _check_rows(rows: Sequence[tuple[Any, ...]], name: str) -> None:
    """Every row has a text, and a label and a group that are each one value."""
    for number, (text, *others) in enumerate(rows, start=1):
        # A label that is missing at the end of a line of a .csv is an empty text.
        lacks = any(not pd.api.types.is_scalar(value) or pd.isna(value) or value == "" for value in others)
        if lacks or not isinstance(text, str):
            raise InputError(
                f"{name}: row {number} lacks a text, or a label or group that is one value; leave it out"
            )
