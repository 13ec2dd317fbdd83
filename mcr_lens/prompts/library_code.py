"""Python code that every installation has: the standard library's own source, for prompts of code."""

import ast
import random
import sysconfig
from pathlib import Path

__all__ = ["library_code"]

# Definitions of at least so many characters: shorter ones make no prompt.
_SHORTEST = 400


def library_code(n: int, seed: int = 0) -> list[str]:
    """``n`` functions and classes of the standard library, as text; no two from one file.

    The same for the same seed and the same Python version: the library's source changes between versions.

    Example:
        >>> (code,) = library_code(1)
        >>> code.startswith(("def ", "class ", "async def ", "@"))
        True
    """
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    rng = random.Random(seed)
    rng.shuffle(files)
    found: list[str] = []
    for file in files:
        source = file.read_text(encoding="utf-8")
        long = [text for text in _definitions(source) if len(text) >= _SHORTEST]
        if long and len(found) < n:
            found.append(rng.choice(long))
    return found


def _definitions(source: str) -> list[str]:
    """Functions and classes at the top level of a module, decorators included."""
    lines = source.splitlines(keepends=True)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, kinds):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found.append("".join(lines[first - 1 : node.end_lineno]))
    return found
