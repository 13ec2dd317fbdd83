"""Made-up documents: word problems and small symbol tasks, without end and without a data set.

The symbol tasks give some heads a trade (copying, looking up, sorting) that ordinary text seldom asks
for. Every document is a function of the random generator that it is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from mcr_lens.prompts.generators import word_problem

__all__ = ["GENERATORS", "synthetic_document"]

WORDS = (
    "kato miru zefa lopi druk seni vaba tolm gris hune pako".split()
    + "rilo wexa yund fomi jast clem obra quin stub".split()
)
DIGITS = "0123456789"
_chain_random = random.Random(20251006)
CHAIN = {d: _chain_random.sample(DIGITS, 4) for d in DIGITS}


def bigram_copy(rng: random.Random) -> str:
    """Digits from a fixed Markov chain; after the rare trigger `!` the last digit is said again."""
    digit, text = rng.choice(DIGITS), []
    for _ in range(rng.randint(40, 240)):
        text.append(digit)
        if rng.random() < 0.06:
            text.append("!" + digit)
        digit = CHAIN[digit][min(rng.randrange(6), 3)]
    return "".join(text)


def look_up(rng: random.Random) -> str:
    """Pairs of a name and a number, then questions about them."""
    keys = rng.sample(WORDS, rng.randint(3, 10))
    table = {key: rng.randint(10, 99) for key in keys}
    given = ", ".join(f"{key}={value}" for key, value in table.items())
    asked = [rng.choice(keys) for _ in range(rng.randint(2, 8))]
    return given + "? " + ", ".join(f"{key}={table[key]}" for key in asked) + "."


def repeat(rng: random.Random) -> str:
    """A random string, then the same again."""
    text = "".join(rng.choice(DIGITS) for _ in range(rng.randint(5, 60)))
    return f"repeat {text} | {text}"


def reverse(rng: random.Random) -> str:
    """Random strings, each followed by itself read backwards."""
    texts = ["".join(rng.choice(DIGITS) for _ in range(rng.randint(3, 12))) for _ in range(4)]
    return "reverse " + " ; ".join(f"{text} | {text[::-1]}" for text in texts)


def sort(rng: random.Random) -> str:
    """Random digits, each followed by the same in order."""
    texts = [[rng.choice(DIGITS) for _ in range(rng.randint(3, 12))] for _ in range(4)]
    return "sort " + " ; ".join("".join(text) + " | " + "".join(sorted(text)) for text in texts)


GENERATORS: dict[str, tuple[float, Callable[[random.Random], str]]] = {
    "word_problem": (0.35, word_problem),
    "bigram_copy": (0.25, bigram_copy),
    "look_up": (0.16, look_up),
    "repeat": (0.08, repeat),
    "reverse": (0.08, reverse),
    "sort": (0.08, sort),
}


def synthetic_document(rng: random.Random) -> str:
    """Draw a generator by its share, then a document from it."""
    shares = [share for share, _ in GENERATORS.values()]
    _, make = rng.choices(list(GENERATORS.values()), weights=shares)[0]
    return make(rng)
