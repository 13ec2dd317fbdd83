"""Arguments of the wrong kind: one line that says what was given and what is allowed; nothing is run."""

# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import mcr_lens as mcr
from mcr_lens.experiments.tasks import multiple_choice
from mcr_lens.hooks.lenses.continuation import Answer, AnswerLens
from mcr_lens.hooks.observers.patterns import PatternObserver
from mcr_lens.models import plan
from mcr_lens.prompts import read_texts
from mcr_lens.sweeps import read_grid

PROMPTS = mcr.Prompts.from_tokens([[0, 11, 12, 13], [0, 21, 22]])


def of_plan(**options: Any) -> Callable[[Any], object]:
    return lambda _: plan("tiny", [16] * 2, **{"devices": 0, **options})


def of_answers(*answers: Answer, depths: Any = (0, 1)) -> Callable[[Any], object]:
    return lambda model: AnswerLens(model, 2, answers, depths)


CASES: dict[str, tuple[Callable[[Any], object], list[str]]] = {
    "bits": (of_plan(bits="4"), ["bits '4'", "1 to 32"]),
    "devices": (of_plan(devices="x"), ["devices 'x'", "whole number"]),
    "memory": (of_plan(memory=80), ["memory 80", "80GB"]),
    "host memory": (of_plan(host_memory=80.0), ["host memory 80.0", "80.0GB"]),
    "backend": (of_plan(backend="best"), ["backend 'best'", "'auto'"]),
    "chunk": (of_plan(chunk=True), ["chunk True"]),
    "no prompts": (lambda _: plan("tiny", None), ["lengths", "tokens of each prompt"]),
    "half a token": (lambda _: plan("tiny", [16.5]), ["lengths", "tokens of each prompt"]),
    "no model": (lambda _: plan(None, [16]), ["NoneType", "folder"]),
    "no grid": (lambda _: read_grid(None), ["None", "path"]),
    "no texts": (lambda _: read_texts(None), ["None", "path"]),
    "seed of prompts": (lambda m: mcr.load_prompts(["a b"], m, seed="x"), ["seed 'x'"]),
    "top_k of a text": (lambda m: mcr.logit_lens(m, PROMPTS, top_k="a"), ["top_k 'a'"]),
    "half a token more": (lambda m: mcr.logit_lens(m, PROMPTS, top_k=1.5), ["top_k 1.5"]),
    "top_k of truth": (lambda m: mcr.logit_lens(m, PROMPTS, top_k=True), ["top_k True", "0.."]),
    "rows at a time": (lambda m: mcr.LogitLens(m, token_block=2.5), ["token_block 2.5"]),
    "ragged tokens": (lambda m: mcr.LogitLens(m, [[1, 2], [3]]), ["tokens:", "one length"]),
    "text for tokens": (lambda m: mcr.LogitLens(m, "ab"), ["tokens:", "give ids"]),
    "documents": (
        lambda m: mcr.tasks.lens_perplexity(m, PROMPTS, documents=["a", None]),
        ["documents:", "whole numbers"],
    ),
    "window": (lambda m: mcr.tasks.lens_perplexity(m, ["a b c"], max_tokens="a"), ["max_tokens 'a'"]),
    "confidence": (lambda m: mcr.profile(m, PROMPTS, progress=False).phases(confidence="x"), ["confidence"]),
    "layer to look at": (lambda m: PatternObserver(m, [1.0]), ["layers [1.0]"]),
    "steps": (lambda m: mcr.experiments.fit_tuned_lens(m, PROMPTS, steps=1.5), ["steps 1.5"]),
    "rate": (lambda m: mcr.experiments.fit_tuned_lens(m, PROMPTS, learning_rate="a"), ["learning_rate 'a'"]),
    "depth of an answer": (of_answers(Answer(0, 2, (5,)), depths=[77]), ["depths [77]", "0..10"]),
    "no answers": (of_answers(), ["no answers"]),
    "no tokens": (of_answers(Answer(0, 2, ())), ["answer 0", "tokens []"]),
    "foreign token": (of_answers(Answer(0, 2, (5,)), Answer(1, 2, (10**6,))), ["answer 1", "vocabulary"]),
    "foreign prompt": (of_answers(Answer(2, 2, (5,))), ["prompt 2", "0..1"]),
    "position": (of_answers(Answer(0, -1, (5,))), ["position -1", "from 0"]),
}


@pytest.mark.parametrize("case", CASES)
def test_arguments_of_another_kind(case: str, bundled_model: Any) -> None:
    call, parts = CASES[case]
    with pytest.raises(mcr.InputError) as raised:
        call(bundled_model)
    assert "\n" not in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize("option", [{"limit": "3"}, {"num_fewshot": 1.5}], ids=str)
def test_options_of_a_task(option: dict[str, Any], bundled_model: Any) -> None:
    pytest.importorskip("lm_eval")
    (name, value), *_ = option.items()
    with pytest.raises(mcr.InputError, match=f"{name} {value!r}"):
        multiple_choice(bundled_model, "arc_easy", **option)


@pytest.mark.parametrize("kind", [np.int64, np.array, torch.tensor])
def test_numbers_of_other_libraries_are_numbers(kind: Callable[[Any], Any], bundled_model: Any) -> None:
    data = mcr.logit_lens(bundled_model, PROMPTS, top_k=kind(2), batch_size=kind(1), progress=False).data
    assert data.sizes["k"] == 2
    AnswerLens(bundled_model, 2, [Answer(0, kind(2), np.array([5, 6]))], [kind(1)])
    mcr.experiments.fit_tuned_lens(
        bundled_model, PROMPTS, steps=kind(0), learning_rate=kind(1), progress=False
    )


def test_numbers_of_a_plan_may_be_of_numpy() -> None:
    planned = plan("tiny", np.array([16, 12]), devices=0, bits=np.float32(8))
    assert "2 prompts of up to 16 tokens" in planned.headline
