"""Tokens as a page may show them: what cannot be seen made visible, nothing that reads as markup."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
# Shown as their number: controls, formats (text direction among them), halves of surrogate pairs, private
# and unassigned ones, and separators other than the plain space.
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def visible(text: str, longest: int | None = None) -> str:
    r"""A token with everything in it that cannot be seen made visible; of at most ``longest`` characters.

    ``␣`` is a space, ``↵`` a newline, ``⇥`` a tab, ``␍`` a carriage return; other characters without a shape
    of their own become their number, ``\u202e``. Markup stays what it is: templates escape it.

    Example:
        >>> visible(" sold\n"), visible("\u2028 \ud800")
        ('␣sold↵', '\\u2028␣\\ud800')
    """
    signs = "".join(map(_sign, text))
    if signs and unicodedata.category(signs[0]).startswith("M"):
        signs = "◌" + signs  # a combining mark needs something to sit on
    return signs if longest is None or len(signs) <= longest else signs[: longest - 1] + "…"


def token_texts(model: Any, ids: Sequence[int]) -> list[str]:
    r"""What each token adds to the text, leading space included.

    Bytes that are no character by themselves stand as ``\xe2``; an id without a text of its own, and every
    id of a model without a tokenizer, as its number in brackets.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> token_texts(model, mcr.Prompts.from_texts(["clips é"], model).tokens[0])
        ['<bos>', 'c', 'l', 'ip', 's', ' ', '\\xc3', '\\xa9']
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return [f"[{token}]" for token in ids]
    texts = {token: _token_text(tokenizer, token) or f"[{token}]" for token in set(ids)}
    return [texts[token] for token in ids]


def _token_text(tokenizer: Any, token: int) -> str:
    options = {"clean_up_tokenization_spaces": False}
    alone = tokenizer.decode([token], **options)
    twice = tokenizer.decode([token, token], **options)
    # Some tokenizers drop the space that a text begins with; what a second one adds has it.
    text = twice[len(alone) :] if twice.startswith(alone) else alone
    return text if "\N{REPLACEMENT CHARACTER}" not in text else _byte_text(tokenizer, token, text)


def _byte_text(tokenizer: Any, token: int, text: str) -> str:
    """The bytes of a token that is no text by itself, where the vocabulary tells them."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    piece = tokenizer.convert_ids_to_tokens(token)
    if not isinstance(piece, str):
        return text
    if byte := _BYTE_PIECE.fullmatch(piece):
        return f"\\x{byte[1].lower()}"
    # The characters that byte-level vocabularies write bytes with.
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    if all(character in byte_of for character in piece):
        return bytes(byte_of[character] for character in piece).decode("utf-8", "backslashreplace")
    return text


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
