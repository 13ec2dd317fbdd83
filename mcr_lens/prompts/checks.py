"""What texts and token ids must be to become prompts: strings that can be encoded, and rows without padding.

Padding of a batch of ids is no text: it is named by whoever made the batch, or found by the model's id.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mcr_lens.errors import InputError
from mcr_lens.validate import is_whole

if TYPE_CHECKING:
    from mcr_lens.prompts.batches import Prompts

__all__ = ["check_texts", "has_bos_of_its_own", "real_tokens", "without_padding"]

Rows = tuple[tuple[int, ...], ...]


def real_tokens(rows: Rows, source: str, lengths: Any = None, attention_mask: Any = None) -> Rows:
    """The rows without the padding that ``lengths`` (at their ends) or a mask (at either end) names.

    Raises:
        InputError: when both are given, or either does not fit the rows.
    """
    if lengths is not None and attention_mask is not None:
        raise InputError(f"{source}: give lengths or attention_mask, not both")
    if lengths is not None:
        counts = list(_listed(lengths))
        if len(counts) != len(rows) or not all(
            is_whole(n, 0, len(row) + 1) for n, row in zip(counts, rows, strict=True)
        ):
            raise InputError(f"{source}: lengths must be whole numbers, one a row, none above the row's own")
        return tuple(row[: int(n)] for n, row in zip(counts, rows, strict=True))
    if attention_mask is None:
        return rows
    masks = [[int(value) for value in _listed(mask)] for mask in _listed(attention_mask)]
    if [*map(len, masks)] != [*map(len, rows)] or not {value for mask in masks for value in mask} <= {0, 1}:
        raise InputError(f"{source}: attention_mask must have a 0 or 1 for each of the token ids")
    for number, mask in enumerate(masks):
        if "0" in "".join(map(str, mask)).strip("0"):
            raise InputError(
                f"{source}: attention_mask leaves out tokens in the middle of row {number}: padding "
                "stands at the ends"
            )
    return tuple(
        tuple(token for token, is_real in zip(row, mask, strict=True) if is_real)
        for row, mask in zip(rows, masks, strict=True)
    )


def without_padding(prompts: Prompts, model: Any) -> Prompts:
    """Prompts of one rectangular batch of ids without runs of the padding id at their ends, which is told.

    Where that id means something in a text as well (BOS, EOS, unknown), ids cannot tell. Then every row must
    begin, and end, with none of it or with one of it: as many in a row as in the next.

    Raises:
        InputError: where padding may be there and ids alone cannot tell.
    """
    tokenizer = getattr(model, "tokenizer", None)
    pad = getattr(tokenizer, "pad_token_id", None)
    if not prompts.maybe_padded or pad is None:
        return prompts
    begins = [_run(row, pad) for row in prompts.tokens]
    ends = [_run(row[::-1], pad) for row in prompts.tokens]
    meanings = [name for name in ("bos", "eos", "unk") if getattr(tokenizer, f"{name}_token_id", None) == pad]
    if meanings:
        if any(len({*runs}) > 1 or runs[0] > 1 for runs in (begins, ends)):
            raise InputError(
                f"{prompts.source}: rows begin or end with id {pad}, the padding of the model and its "
                f"{' and '.join(meanings).upper()}: ids alone cannot tell which it is; name the padding by "
                "lengths= or attention_mask= of Prompts.from_tokens"
            )
        return replace(prompts, maybe_padded=False)
    if not any(begins) and not any(ends):
        return replace(prompts, maybe_padded=False)
    rows = tuple(
        row[begin : len(row) - end] for row, begin, end in zip(prompts.tokens, begins, ends, strict=True)
    )
    n_padded = sum(len(row) < len(whole) for row, whole in zip(rows, prompts.tokens, strict=True))
    warnings.warn(
        f"{prompts.source}: {n_padded} of {len(rows)} rows begin or end with the padding id {pad}, "
        "which is left out (name the padding by lengths= or attention_mask= of Prompts.from_tokens)",
        stacklevel=4,
    )
    options = {**prompts.options, "padding": f"runs of id {pad} left out of {n_padded} rows"}
    return replace(prompts, tokens=rows, maybe_padded=False, options=options)


def _run(row: Sequence[int], pad: int) -> int:
    """How many tokens at the beginning are the padding id."""
    return sum(1 for _ in takewhile(lambda token: token == pad, row))


def _listed(values: Any) -> Any:
    """Tensors and arrays as lists."""
    return values.tolist() if isinstance(values, torch.Tensor | np.ndarray) else values


def check_texts(texts: Iterable[str], source: str, start: int = 0) -> list[str]:
    """Texts as a list, counted from ``start`` in messages; ``InputError`` for what is no string."""
    listed = list(texts)
    for i, text in enumerate(listed, start):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise InputError(
                f"text {i} of {source} is a {kind}: give strings only; for ids use Prompts.from_tokens"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {i} of {source} has half a surrogate pair at {error.start}: leave it out"
            ) from error
    return listed


def has_bos_of_its_own(tokenizer: Any) -> bool:
    """False for a BOS that TransformerLens made of the EOS, because the tokenizer was saved without one."""
    if tokenizer.bos_token_id is None:
        return False
    saved = getattr(tokenizer, "init_kwargs", {}).get("bos_token")
    return saved is not None or tokenizer.bos_token_id != tokenizer.eos_token_id
