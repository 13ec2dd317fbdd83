"""``load_prompts``: files, lists and Hugging Face data sets of texts, to tokenised prompts."""

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.prompts.batches import Prompts, check_number, check_texts
from mcr_lens.prompts.files import check_source, column_of, name_list, read_table, read_text
from mcr_lens.validate import is_whole

__all__ = ["PromptsLike", "as_prompts", "load_prompts", "read_texts"]


# What stands for prompts wherever a model is at hand.
PromptsLike = Prompts | str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor


def as_prompts(prompts: PromptsLike, model: Any) -> Prompts:
    """``Prompts`` of what stands for them: a text, several texts, the token ids of one prompt or of several.

    Raises:
        InputError: for anything else, and for what ``Prompts.from_texts`` and ``from_tokens`` refuse.
    """
    if isinstance(prompts, Prompts):
        return prompts
    if isinstance(prompts, str):
        return Prompts.from_texts([prompts], model, source="text")
    listed: Any = prompts.tolist() if isinstance(prompts, Tensor | np.ndarray) else prompts
    first = listed[0] if isinstance(listed, list | tuple) and listed else None
    if isinstance(first, str):
        return Prompts.from_texts(listed, model)
    if isinstance(first, list | tuple | Tensor | np.ndarray):
        return Prompts.from_tokens(listed)
    if is_whole(first):
        return Prompts.from_tokens([listed])
    raise InputError(
        f"prompts is a {type(prompts).__name__}: give a text, texts, token ids, or Prompts (see load_prompts)"
    )


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
        source: a ``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet`` or ``.txt`` file (a prompt a
            paragraph when the file has blank lines between them, else a prompt a line), a list of strings,
            or ``"hf:NAME_OR_FOLDER"`` for ``datasets`` (with ``config`` and ``split``).
        model: whose tokenizer is used.
        field: the column that holds the text; may be left out where there is only one.
        n: how many prompts to take, blank texts not counted: the first ones, or a random sample when
            ``seed`` is given.
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
    # Blank rows are no prompts: they do not count among the n, and are counted as dropped.
    places = range(len(texts)) if n is None else [i for i, text in enumerate(texts) if text.strip()][:n]
    n_blank = places[-1] + 1 - len(places) if places else 0
    prompts = Prompts.from_texts(
        [texts[i] for i in places],
        model,
        max_tokens=max_tokens,
        prepend_bos=prepend_bos,
        source=name,
        options={"field": field, "n": n, "seed": seed, "config": config, "split": split},
    )
    return replace(prompts, dropped=prompts.dropped + n_blank)


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
    path = check_source(source, ".txt")
    if path is not None and path.suffix.lower() == ".txt":
        text = read_text(path)
        parts = text.split("\n\n") if "\n\n" in text.strip() else text.split("\n")
        return [part.strip() for part in parts if part.strip()]
    table = read_table(source, config, split)
    columns = list(table.columns)
    if field is None and len(columns) == 1:
        field = columns[0]
    if field is None:
        raise InputError(f"{source}: choose a field, one of {name_list(columns)}")
    texts = column_of(table, field, source)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            kind = "missing" if text is None or text != text else f"a {type(text).__name__}, not a text"
            raise InputError(f"{source}: field {field!r} of row {number} is {kind}")
    return texts
