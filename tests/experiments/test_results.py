"""Results of experiments: each is shown, saved, and opened by ``mcr.load`` as what it is."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import mcr_lens as mcr
from mcr_lens.experiments import ChoiceResult, EmbeddingResult, PatchingResult, PerplexityResult, ProbeResult
from mcr_lens.results import Result


def choices() -> ChoiceResult:
    right = np.array([[0.0, 1], [1, 1], [0, np.nan]])
    documents = {"task": ("document", ["a", "a", "b"]), "n_choices": ("document", [2, 2, 4])}
    data = xr.Dataset({"acc": (("document", "depth"), right)}, {**documents, "depth": [0, 1]})
    return ChoiceResult(data)


def probes() -> ProbeResult:
    right = np.array([[[1, 0, 1, 0], [1, 1, 1, 1]]], dtype=np.int8)
    data = xr.Dataset(
        {"correct": (("pooling", "depth", "prompt"), right), "majority_correct": ("prompt", [1, 1, 0, 0])},
        {"pooling": ["mean"], "depth": [0, 1], "group": ("prompt", [0, 1, 2, 3])},
    )
    return ProbeResult(data)


def embeddings() -> EmbeddingResult:
    scores = {"main_score": (("task", "depth", "pooling"), np.ones((1, 2, 1)))}
    coords = {"task": ["t"], "depth": [0, 1], "pooling": ["mean"], "metric": ("task", ["accuracy"])}
    return EmbeddingResult(xr.Dataset(scores, coords))


def patching(direction: Any, over: tuple[str, ...]) -> PatchingResult:
    model = mcr.load_model("tiny")
    pairs = mcr.PromptPairs.from_texts(["Ann has 5"], ["Ann has 7"], model, ["5"], ["7"])
    options = {"layers": [0, 1], "progress": False}
    return mcr.activation_patching(model, pairs, "resid_pre", over, direction=direction, **options)


def perplexity() -> PerplexityResult:
    return mcr.tasks.lens_perplexity(
        mcr.load_model("tiny"), mcr.prompts.word_problems(3), n_resamples=9, progress=False
    )


@pytest.mark.parametrize(
    "make",
    [
        choices,
        probes,
        embeddings,
        perplexity,
        lambda: patching("denoise", ("layer", "position")),
        lambda: patching("noise", ("layer",)),
    ],
    ids=["choices", "probes", "embeddings", "perplexity", "patching", "noising by layer"],
)
def test_a_result_is_shown_saved_and_loaded(make: Any, tmp_path: Path) -> None:
    result: Result = make()
    again = mcr.load(result.save(tmp_path / "result.nc"))
    assert type(again) is type(result)
    pd.testing.assert_frame_equal(again.summary(), result.summary())
    assert repr(again) == repr(result) and result.headline in repr(result)
    assert "<table" in result._repr_html_()


def test_a_patching_result_names_the_place_of_the_best_patch() -> None:
    result = patching("denoise", ("layer", "position"))
    last = int(result["position"][-1])  # the number is all that the prompts differ in
    assert result.sentences() == [
        f"The patch that does most (recovered 1.00) is at layer 0, position {last}."
    ]
    assert result.table().index[0] == (0, last)


def test_a_table_of_choices_counts_documents_that_every_depth_has() -> None:
    table = choices().table()
    assert table.acc["a"].tolist() == [0.5, 1.0] and table.acc["b"].isna().all()


def test_tasks_are_there_before_anything_else_is_asked_for() -> None:
    subprocess.run([sys.executable, "-c", "import mcr_lens; mcr_lens.tasks.best_depth"], check=True)
