"""Conversations as texts: through the chat template of the model's tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from mcr_lens.errors import InputError, one_line

__all__ = ["ChatTemplate"]

# What ShareGPT and its like call the roles.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


class ChatTemplate:
    """The chat template of a model's tokenizer, and what it added to the first conversation.

    Raises:
        InputError: where the tokenizer has none.
    """

    def __init__(self, model: Any) -> None:
        self._tokenizer: Any = getattr(model, "tokenizer", None)
        self._added: str | None = None
        if not getattr(self._tokenizer, "chat_template", None):
            raise InputError(
                "chat_template=True: the tokenizer has no chat template; give texts, or set "
                "model.tokenizer.chat_template"
            )

    def text(self, conversation: Any, where: str) -> str:
        """A conversation as the model was taught to see it, special tokens written out.

        Raises:
            InputError: for what is no list of messages, or what the template refuses.
        """
        messages = _messages(conversation, where)
        text = self._applied(messages, where)
        if self._added is None:
            # A mark in the place of each message's own text: what is left is the template's.
            self._added = self._applied([{**each, "content": "..."} for each in messages], where)
        return text

    def attributes(self) -> dict[str, Any]:
        """For the record: a digest of the template, and the first conversation with ``...`` for its texts."""
        template = str(self._tokenizer.chat_template)
        return {"digest": hashlib.sha256(template.encode()).hexdigest()[:16], "added": self._added}

    def _applied(self, messages: list[dict[str, Any]], where: str) -> str:
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # whatever a template raises on roles or orders that it does not know
            raise InputError(
                f"{where}: the chat template refuses it ({one_line(error, 200)}); leave it out"
            ) from error


def _messages(conversation: Any, where: str) -> list[dict[str, Any]]:
    """Messages of a role and a content, of those or of ShareGPT's ``from`` and ``value``."""
    messages: list[dict[str, Any]] = []
    for message in conversation if isinstance(conversation, list) else []:
        if isinstance(message, Mapping) and {"role", "content"} <= {*message}:
            # Columns that are missing in a message are None in tables.
            messages.append({key: value for key, value in message.items() if value is not None})
        elif isinstance(message, Mapping) and {"from", "value"} <= {*message}:
            role = str(message["from"])
            messages.append({"role": _ROLES.get(role.lower(), role.lower()), "content": message["value"]})
        else:
            messages.clear()
            break
    if not messages or not all(isinstance(each.get("content"), str | list) for each in messages):
        raise InputError(
            f"{where} is no conversation: with chat_template=True give lists of {{role, content}} or "
            "{from, value}"
        )
    return messages
