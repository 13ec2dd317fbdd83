"""``load_prompts``: files, lists and Hugging Face data sets of texts, to tokenised prompts."""

import itertools
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcr_lens.errors import InputError
from mcr_lens.prompts.batches import Prompts, check_number
from mcr_lens.prompts.checks import check_texts
from mcr_lens.prompts.conversations import ChatTemplate
from mcr_lens.prompts.files import (
    check_source,
    column_of,
    field_of,
    name_list,
    read_table,
    read_text,
    rows_of_split,
)
from mcr_lens.validate import is_whole

__all__ = ["load_prompts", "read_texts"]


def load_prompts(
    source: str | Path | Sequence[str] | Sequence[Sequence[Mapping[str, Any]]],
    model: Any,
    *,
    field: str | None = None,
    chat_template: bool = False,
    n: int | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    prepend_bos: bool | None = None,
    config: str | None = None,
    split: str | None = None,
) -> Prompts:
    """Prompts from a file, a list of strings or a Hugging Face data set.

    Args:
        source: a ``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet`` or ``.txt`` file (a prompt a
            paragraph when the file has blank lines between them, else a prompt a line), a list of strings,
            or ``"hf:NAME_OR_FOLDER"`` for ``datasets`` (with ``config`` and ``split``).
        model: whose tokenizer is used.
        field: the column that holds the text; may be left out where there is only one. ``"a.b"`` is the field
            ``b`` inside column ``a``.
        chat_template: the field holds conversations: lists of ``{"role": ..., "content": ...}``, or of
            ``{"from": ..., "value": ...}`` as ShareGPT has them. The tokenizer's chat template makes texts
            of them; ``options["chat_template"]`` of the prompts says what it added.
        n: how many prompts to take: the first ones that can be used, or a random sample when ``seed`` is
            given. Rows that are blank or have fewer than 2 tokens do not count; ``dropped`` says how many.
            Without a seed a data set is read no further than needed.
        max_tokens: longer prompts are cut to this many tokens and counted.
        prepend_bos: ``None``: the tokenizer's BOS first, where it has one.

    Raises:
        InputError: one line that names the file, what is wrong with it and what would be right.
    """
    check_number("n", n, 1, "ask for at least one prompt")
    if seed is not None and not is_whole(seed):
        raise InputError(f"seed {seed!r}: use a whole number, or None for the first prompts")
    template = ChatTemplate(model) if chat_template else None
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "list of strings"
    texts: Iterator[str]
    if not isinstance(source, str | os.PathLike):
        listed: Any = source
        texts = iter(check_texts(listed, name)) if template is None else _texts(listed, None, template, name)
    elif n is not None and seed is None and name.startswith("hf:"):
        texts = _streamed(name, field, template, config, split)
    else:
        texts = iter(_read(source, field, template, config, split))
    if seed is not None:
        shuffled = list(texts)
        random.Random(seed).shuffle(shuffled)
        texts = iter(shuffled)
    n_blank = 0

    def written() -> Iterator[str]:
        nonlocal n_blank
        for text in texts:
            if text.strip():
                yield text
            else:
                n_blank += 1

    options = {"field": field, "n": n, "seed": seed, "config": config, "split": split}
    prompts = Prompts.from_texts(
        written(), model, n=n, max_tokens=max_tokens, prepend_bos=prepend_bos, source=name, options=options
    )
    if template is not None:
        prompts = replace(prompts, options={**prompts.options, "chat_template": template.attributes()})
    return replace(prompts, dropped=prompts.dropped + n_blank)


def read_texts(
    source: str | Path,
    field: str | None = None,
    *,
    config: str | None = None,
    split: str | None = None,
) -> list[str]:
    """The texts of a file or data set, untokenised; arguments and errors as in ``load_prompts``."""
    return _read(source, field, None, config, split)


def _read(
    source: str | Path,
    field: str | None,
    template: ChatTemplate | None,
    config: str | None,
    split: str | None,
) -> list[str]:
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"texts are read from a file, not a {type(source).__name__}: give its path, or 'hf:NAME'"
        )
    path = check_source(source, ".txt")
    if path is not None and path.suffix.lower() == ".txt":
        text = read_text(path)
        parts = text.split("\n\n") if "\n\n" in text.strip() else text.split("\n")
        return [part.strip() for part in parts if part.strip()]
    table = read_table(source, config, split)
    values = column_of(table, _field(field, list(table.columns), source), source)
    return [*_texts(values, field, template, source)]


def _streamed(
    source: str, field: str | None, template: ChatTemplate | None, config: str | None, split: str | None
) -> Iterator[str]:
    """The texts of a data set, row by row as they are asked for."""
    rows = rows_of_split(source.removeprefix("hf:"), config, split)
    first = next(rows, None)
    if first is None:
        return
    name = _field(field, list(first), source)
    values = (field_of(row, name, source) for row in itertools.chain([first], rows))
    yield from _texts(values, name, template, source)


def _field(field: str | None, columns: list[str], source: object) -> str:
    if field is None and len(columns) == 1:
        return columns[0]
    if field is None:
        raise InputError(f"{source}: choose a field, one of {name_list(columns)}")
    return field


def _texts(
    values: Iterable[Any], field: str | None, template: ChatTemplate | None, source: object
) -> Iterator[str]:
    """The text of every row; rows count from 1 in messages, as in an editor."""
    for number, value in enumerate(values, start=1):
        where = f"{source}: field {field!r} of row {number}"
        if template is not None:
            yield template.text(value, where)
        elif isinstance(value, str):
            yield value
        elif value is None or value != value:
            raise InputError(f"{where} is missing: leave the row out, or give an empty text")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            raise InputError(f"{where} is a conversation, not a text: use chat_template=True")
        else:
            raise InputError(f"{where} is a {type(value).__name__}, not a text")
