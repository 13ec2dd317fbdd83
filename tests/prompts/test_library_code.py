"""Code of the standard library as prompts."""

import ast

import mcr_lens as mcr


def test_it_is_code_and_the_same_for_the_same_seed() -> None:
    found = mcr.prompts.library_code(10, seed=3)
    assert found == mcr.prompts.library_code(10, seed=3) != mcr.prompts.library_code(10, seed=4)
    assert len(set(found)) == 10
    for text in found:
        assert len(ast.parse(text).body) == 1 and len(text) >= 400
