"""Texts that need no download: word problems of our own, and Python code that every installation has."""

import ast
import random
import sysconfig
from pathlib import Path

__all__ = ["library_code", "word_problem", "word_problems"]

NAMES = (
    "Amina Bruno Chidi Daria Emeka Freya Goran Hana Ivo Jun Kofi Lena Mateo Nia Oskar Priya Quentin "
    "Rosa Sven Tariq Uma Vera Wei Ximena Yusuf Zoe"
).split()
THINGS = (
    "apples marbles stamps pencils shells books buttons coins stickers lemons candles bricks beads "
    "cookies tickets postcards bottles ribbons plants stones"
).split()
PLACES = "market, school, garden, harbour, library, workshop, farm, station".split(", ")

# Definitions of at least so many characters: shorter ones make no prompt.
_SHORTEST = 400


def word_problems(n: int, seed: int = 0) -> list[str]:
    """``n`` made-up arithmetic questions, the same for the same seed."""
    rng = random.Random(seed)
    return [word_problem(rng).split("\n")[0] for _ in range(n)]


def word_problem(rng: random.Random) -> str:
    """A short arithmetic story with its worked answer."""
    name, thing, place = rng.choice(NAMES), rng.choice(THINGS), rng.choice(PLACES)
    a, b, c = rng.randint(2, 60), rng.randint(2, 40), rng.randint(2, 9)
    kind = rng.randrange(4)
    if kind == 0:
        return (
            f"{name} has {a} {thing} and finds {b} more at the {place}. Then {name} gives away {c}."
            f" How many {thing} does {name} have now?\n"
            f"{name} has {a}+{b} = {a + b} {thing} after the {place}.\n"
            f"Then {a + b}-{c} = {a + b - c} are left.\n#### {a + b - c}"
        )
    if kind == 1:
        return (
            f"There are {a} boxes at the {place}, and every box holds {c} {thing}. {name} takes {c}"
            f" {thing} home. How many {thing} stay?\nThere are {a}*{c} = {a * c} {thing}.\n"
            f"After {name} leaves there are {a * c}-{c} = {a * c - c}.\n#### {a * c - c}"
        )
    if kind == 2:
        other = rng.choice(NAMES)
        return (
            f"{name} sells {thing} for ${c} each. {other} buys {b} of them and pays with ${b * c + a}."
            f" How much change is due?\nThe {thing} cost {b}*{c} = ${b * c}.\n"
            f"The change is {b * c + a}-{b * c} = ${a}.\n#### {a}"
        )
    total = b * c
    return (
        f"{name} shares {total} {thing} equally among {c} friends from the {place}. Each friend then"
        f" buys {a} more. How many {thing} does each friend have?\n"
        f"Each friend gets {total}/{c} = {b} {thing}.\nThat makes {b}+{a} = {a + b}.\n#### {a + b}"
    )


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
    texts: list[str] = []
    for file in files:
        long = [text for text in _definitions(file.read_text(encoding="utf-8")) if len(text) >= _SHORTEST]
        if long and len(texts) < n:
            texts.append(rng.choice(long))
    return texts


def _definitions(source: str) -> list[str]:
    """Functions and classes at the top level of a module, decorators included."""
    lines = source.splitlines(keepends=True)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    texts = []
    for node in ast.parse(source).body:
        if isinstance(node, kinds):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            texts.append("".join(lines[first - 1 : node.end_lineno]))
    return texts
