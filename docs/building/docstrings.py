"""Docstrings as the site's parser wants them: a heading ``Example:`` is its ``Examples:``."""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["Examples"]

_HEADING = re.compile(r"^( *)Example:$(?=\n\1 +>>>)", re.MULTILINE)


class Examples(griffe.Extension):
    """Renames the heading of examples that are sessions, which would else be read as quotations."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute that was read."""
        if obj.docstring is not None:
            obj.docstring.value = _HEADING.sub(r"\1Examples:", obj.docstring.value)
