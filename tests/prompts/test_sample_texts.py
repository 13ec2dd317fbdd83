"""Word problems and code: without end, or of the standard library; the same for the same seed."""

import ast

import mcr_lens as mcr


def test_the_same_seed_gives_the_same_problems() -> None:
    assert mcr.prompts.word_problems(20, seed=3) == mcr.prompts.word_problems(20, seed=3)
    assert mcr.prompts.word_problems(20, seed=3) != mcr.prompts.word_problems(20, seed=4)
    assert mcr.prompts.word_problems(20)[:5] == mcr.prompts.word_problems(5)


def test_each_is_one_question_without_its_answer() -> None:
    problems = mcr.prompts.word_problems(50)
    assert len(problems) == 50
    assert len(set(problems)) > 40
    for problem in problems:
        assert problem.endswith("?")
        assert "\n" not in problem
        assert "####" not in problem
        assert any(character.isdigit() for character in problem)


def test_none_is_a_list_of_nothing() -> None:
    assert mcr.prompts.word_problems(0) == []


def test_it_is_code_and_the_same_for_the_same_seed() -> None:
    found = mcr.prompts.library_code(10, seed=3)
    assert found == mcr.prompts.library_code(10, seed=3) != mcr.prompts.library_code(10, seed=4)
    assert len(set(found)) == 10
    for text in found:
        assert len(ast.parse(text).body) == 1 and len(text) >= 400
