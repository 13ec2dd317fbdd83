"""What a text must be to become a prompt, and whether a tokenizer has a BOS of its own."""

from collections.abc import Iterable
from typing import Any

from mcr_lens.errors import InputError

__all__ = ["check_texts", "has_bos_of_its_own"]


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
