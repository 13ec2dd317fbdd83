"""Word problems of our own, so that the demo needs no data set."""

import random

from mcr_lens.tiny.synthetic import word_problem

__all__ = ["word_problems"]


def word_problems(n: int, seed: int = 0) -> list[str]:
    """``n`` made-up arithmetic questions, the same for the same seed."""
    rng = random.Random(seed)
    return [word_problem(rng).split("\n")[0] for _ in range(n)]
