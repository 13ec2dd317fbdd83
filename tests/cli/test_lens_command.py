"""``mcr-lens lens``: one file, one table, logit lens or tuned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shell import assert_refused, run

import mcr_lens as mcr
from mcr_lens.results import load_dataset
from mcr_lens.results.tables import number

FIELD = ("--field", "question", "--n", 5)


def prompts(model: Any, questions: Path) -> mcr.Prompts:
    return mcr.load_prompts(questions, model, field="question", n=5)


def test_file_and_table_are_those_of_logit_lens(
    llama: Any, llama_folder: Path, questions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lens.nc"
    result = run("lens", llama_folder, questions, "--out", out, *FIELD, "--batch-size", 2, "--chunk", 4)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    expected = mcr.logit_lens(llama, prompts(llama, questions), progress=False).data
    found = load_dataset(out)
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=str(name))
    assert found.attrs["lens"] == {"kind": "logit", "translators": None}
    for depth, row in mcr.experiments.lens_summary(found).iterrows():
        line = next(line for line in result.stdout.split("\n") if line.startswith(f"│ {depth:>5} "))
        assert [cell.strip() for cell in line.strip("│").split("│")][1:] == [number(value) for value in row]
    for word in ("loss", "perplexity", "entropy", "kl to final", "target rank", "target probability"):
        assert word in result.stdout
    assert result.stdout.startswith("Logit lens of ")
    assert result.stdout.endswith(f"saved {out} (read it back with mcr_lens.load)\n")


def test_best_tokens_and_token_by_token(
    llama: Any, llama_folder: Path, questions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lens.nc"
    result = run("lens", llama_folder, questions, "--out", out, *FIELD, "--top-k", 2, "--per-token")
    assert result.exit_code == 0, result.output
    found = load_dataset(out)
    assert found.sizes["k"] == 2
    assert found.lens_loss_by_token.dims == ("prompt", "depth", "position")


def test_a_tuned_lens(llama: Any, llama_folder: Path, questions: Path, tmp_path: Path) -> None:
    layers, width = llama.cfg.n_layers, llama.cfg.d_model
    generator = torch.Generator().manual_seed(0)
    maps = 0.1 * torch.randn(layers, width, width, generator=generator)
    made = mcr.hooks.Translators(maps, torch.zeros(layers, width), {"base_model": "mine"})
    folder, out = made.save(tmp_path / "tuned"), tmp_path / "lens.nc"
    result = run("lens", llama_folder, questions, "--out", out, *FIELD, "--translators", folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Tuned lens of ")
    found = load_dataset(out)
    assert found.attrs["lens"] == {"kind": "tuned", "translators": {"base_model": "mine"}}
    chosen = prompts(llama, questions)
    expected = mcr.logit_lens(llama, chosen, translators=made, progress=False).data
    np.testing.assert_allclose(found.lens_loss, expected.lens_loss, rtol=1e-4)
    plain = mcr.logit_lens(llama, chosen, progress=False).data
    assert not np.allclose(found.lens_loss[:, 0], plain.lens_loss[:, 0], rtol=1e-2)


def test_bad_input_is_one_line_and_leaves_nothing(
    llama_folder: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    good = ["lens", llama_folder, questions, "--out", place / "lens.nc", *FIELD]
    assert_refused(run(*good, "--top-k", 65), 2, "top_k 65", "64")
    mcr.hooks.Translators(torch.zeros(1, 8, 8), torch.zeros(1, 8)).save(tmp_path / "other")
    assert_refused(run(*good, "--translators", tmp_path / "other"), 2, "translators")
    # These before the model is loaded.
    monkeypatch.setattr("mcr_lens.models.load_model", lambda *args, **kwargs: pytest.fail("it was loaded"))
    assert_refused(run(*good, "--translators", tmp_path / "none"), 2, "no config.json")
    assert_refused(run("lens", llama_folder, questions, "--out", place), 2, "cannot be written")
    assert run(*good, "--top-k", -1).exit_code == 2
    assert os.listdir(place) == []
