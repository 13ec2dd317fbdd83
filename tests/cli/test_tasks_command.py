"""``mcr-lens tasks``: what was asked for is measured, written together and shown."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pandas as pd
import pytest
from shell import assert_refused, run

import mcr_lens as mcr


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in mcr.prompts.word_problems(6)))
    return path


def test_perplexity_alone(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "tasks"
    result = run("tasks", "tiny", "--text", texts, "--field", "text", "--window", 16, "--out", out)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        "perplexity.nc", "quality.csv", "best_depth.csv", "tasks.html",
    }  # fmt: skip
    data = mcr.results.load_dataset(out / "perplexity.nc")
    best = pd.read_csv(out / "best_depth.csv")
    assert int(best.best_depth[0]) == int(data.perplexity.argmin())
    assert "Quality by depth" in result.stdout and "blocks saved" in result.stdout
    again = run("tasks", "tiny", "--text", texts, "--field", "text", "--out", out)
    assert_refused(again, 2, "--overwrite")


def test_probes_and_choices_join_the_table(texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn comes with mcr-lens[tasks]")
    pytest.importorskip("lm_eval", reason="lm-eval comes with mcr-lens[tasks]")
    labelled = tmp_path / "labelled.csv"
    rows = [
        {"text": text, "label": "sold" if "sells" in text else "not"}
        for text in mcr.prompts.word_problems(80)
    ]
    pd.DataFrame(rows).to_csv(labelled, index=False)
    (tmp_path / "sums.jsonl").write_text(
        "".join(
            json.dumps({"q": f"{i} + 1 =", "choices": [f" {i + 1}", " no"], "gold": 0}) + "\n"
            for i in range(5)
        )
    )
    (tmp_path / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\noutput_type: multiple_choice\n"
        f"dataset_kwargs:\n  data_files:\n    test: {tmp_path}/sums.jsonl\n"
        "test_split: test\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: gold\n"
        "metric_list:\n  - metric: acc\n"
    )
    out = tmp_path / "tasks"
    result = run("tasks", "tiny", "--choices", tmp_path / "sums.yaml", "--labelled", labelled, "--out", out)
    assert result.exit_code == 0, result.output
    uses = set(pd.read_csv(out / "best_depth.csv").use)
    assert uses == {"sums", "probe, mean", "probe, last", "probe, mean without sink"}
    assert {"choices.nc", "probes.nc"} <= {path.name for path in out.iterdir()}


def test_bad_input_is_refused_before_anything_is_measured(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "tasks"
    assert_refused(run("tasks", "tiny", "--out", out), 2, "give some of --text, --choices and --labelled")
    assert_refused(run("tasks", "tiny", "--text", texts, "--keep", 2, "--out", out), 2, "--keep")
    assert_refused(run("tasks", "tiny", "--text", tmp_path / "none.txt", "--out", out), 2, "no such file")
    assert_refused(run("tasks", "tiny", "--text", texts, "--n", -1, "--out", out), 2, "at least one document")
    assert not out.exists()


def test_data_sets_by_name_with_configuration_and_split(tmp_path: Path) -> None:
    """What a hub name does, with folders saved by the same library: WikiText's lines become articles."""
    pytest.importorskip("sklearn", reason="scikit-learn comes with mcr-lens[tasks]")
    articles = [f"\n = Title {i} = \n\n {text} \n\n" for i, text in enumerate(mcr.prompts.word_problems(3))]
    lines = [line + "\n" for line in "".join(articles).split("\n")]
    wiki = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["no"]})})
    wiki["test"] = datasets.Dataset.from_dict({"text": lines})
    wiki.save_to_disk(tmp_path / "wiki")
    problems = mcr.prompts.word_problems(80)
    table = {"sentence": problems, "sells": ["sells" in problem for problem in problems]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(table)}).save_to_disk(tmp_path / "reviews")
    out = tmp_path / "tasks"
    result = run(
        "tasks", "tiny", "--text", f"hf:{tmp_path / 'wiki'}", "--text-split", "test", "--field", "text",
        "--labelled", f"hf:{tmp_path / 'reviews'}", "--labelled-split", "train",
        "--text-column", "sentence", "--label-column", "sells", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(set(mcr.results.load_dataset(out / "perplexity.nc").document.values)) == 3
    assert mcr.results.load_dataset(out / "probes.nc").sizes["prompt"] == 80


def test_translators_replace_the_logit_lens(texts: Path, tmp_path: Path) -> None:
    model = mcr.load_model("tiny")
    prompts = mcr.load_prompts(texts, model, field="text")
    mcr.experiments.fit_tuned_lens(model, prompts, steps=3, progress=False).save(tmp_path / "lens")
    losses = {}
    for name, more in {"logit": [], "tuned": ["--translators", tmp_path / "lens"]}.items():
        out = tmp_path / name
        result = run("tasks", "tiny", "--text", texts, "--field", "text", *more, "--out", out)
        assert result.exit_code == 0, result.output
        losses[name] = mcr.results.load_dataset(out / "perplexity.nc").lens_loss.mean("prompt").values
    assert losses["tuned"][0] < losses["logit"][0]
    assert losses["tuned"][-1] == pytest.approx(losses["logit"][-1], abs=1e-6)


def test_rows_of_a_group_are_kept_together(texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn comes with mcr-lens[tasks]")
    labelled = tmp_path / "labelled.csv"
    problems = mcr.prompts.word_problems(60)
    rows = [
        {"text": text + end, "label": str(i % 2), "by": f"writer {i}"}
        for i, text in enumerate(problems)
        for end in ("", "!")
    ]
    pd.DataFrame(rows).to_csv(labelled, index=False)
    out = tmp_path / "tasks"
    result = run("tasks", "tiny", "--labelled", labelled, "--group-column", "by", "--out", out)
    assert result.exit_code == 0, result.output
    data = mcr.results.load_dataset(out / "probes.nc")
    folds = data.fold_tested.groupby(data.group)
    assert len(folds) == 60 and (folds.min() == folds.max()).all()
    assert set(pd.read_csv(out / "best_depth.csv").units) == {60}
    refused = run("tasks", "tiny", "--labelled", labelled, "--group-column", "of", "--out", tmp_path / "no")
    assert_refused(refused, 2, "no field 'of'")


def test_what_was_measured_is_kept_when_a_later_part_fails(texts: Path, tmp_path: Path) -> None:
    out, wrong = tmp_path / "tasks", tmp_path / "broken.csv"
    wrong.write_text("text,label\na,b,c\n")
    given = ("tasks", "tiny", "--text", texts, "--field", "text", "--window", 16, "--labelled", wrong)
    result = run(*given, "--out", out)
    assert_refused(result, 2, "broken.csv", f"what was measured is saved in {out}: perplexity.nc")
    assert [path.name for path in out.iterdir()] == ["perplexity.nc"]
    assert "perplexity" in mcr.results.load_dataset(out / "perplexity.nc")
