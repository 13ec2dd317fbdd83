"""What is typed, turned into what it is for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import assert_refused, run

import mcr_lens as mcr
from mcr_lens.cli.options import RunOptions, numbers, words
from mcr_lens.experiments.ablation.arms import ARMS


def test_numbers_with_commas() -> None:
    assert numbers("--layers", "1, 4", int, "1,4") == [1, 4]
    assert numbers("--doses", "0,.25,1", float, "0,1") == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("text", ["", "1,", "1;4", "one", "1.5"])
def test_what_is_no_list_of_numbers_is_named(text: str) -> None:
    with pytest.raises(mcr.InputError, match=r"^--layers .* such as 1,4$"):
        numbers("--layers", text, int, "1,4")


@pytest.mark.parametrize("text", ["nan", "0,inf", "-inf"])
def test_numbers_are_finite(text: str) -> None:
    with pytest.raises(mcr.InputError, match="finite"):
        numbers("--doses", text, float, "0,1")


def test_every_arm_can_be_typed_without_quotes() -> None:
    typed = ",".join(ARMS).replace(" ", "-")
    assert tuple(words(typed)) == ARMS
    assert tuple(words(", ".join(ARMS))) == ARMS


def test_batch_sizes() -> None:
    assert RunOptions().settings() == {"batch_size": "auto", "chunk": None}
    assert RunOptions("3", "4").settings() == {"batch_size": 3, "chunk": 4}
    assert RunOptions(chunk="auto").settings() == {"batch_size": "auto", "chunk": "auto"}
    for text in ("0", "-1", "many", "", "2.5", "²"):
        with pytest.raises(mcr.InputError, match="--batch-size"):
            RunOptions(text)
        with pytest.raises(mcr.InputError, match=r"--chunk .*: use 'auto' or a number"):
            RunOptions(chunk=text)


def test_row_8_what_was_skipped_is_said(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = ["", " ", "Ann has 5 apples.", "", "Bob has 3 pears.", "Cy has 2."]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    result = run("profile", "tiny", path, "--n", 2, "--out", tmp_path / "p.nc")
    assert result.exit_code == 0, result.output
    assert result.stderr == f"mcr-lens: {path}: 3 rows skipped (blank, or fewer than 2 tokens)\n"
    assert mcr.load(tmp_path / "p.nc").data.sizes["prompt"] == 2
    again = run("profile", "tiny", path, "--n", 9, "--out", tmp_path / "q.nc")
    assert "3 prompts, not 9: there are no more" in again.stderr


def test_row_11_nothing_of_another_run_is_replaced(tmp_path: Path) -> None:
    path, saved = tmp_path / "p.txt", tmp_path / "run.nc"
    path.write_text("Ann has 5 apples.\n")
    mcr.profile(mcr.load_model("tiny"), "Ann has 5 apples.", progress=False).save(saved)
    before = saved.read_bytes()
    for name in ("profile", "lens"):
        assert_refused(run(name, "tiny", path, "--out", saved), 2, "already there", "--overwrite")
        assert_refused(run(name, "tiny", path, "--out", tmp_path / "x.txt"), 2, "netCDF", "x.nc")
    assert saved.read_bytes() == before
    assert run("lens", "tiny", path, "--out", saved, "--overwrite").exit_code == 0
    assert saved.read_bytes() != before
    assert_refused(run("report", saved, "--out", tmp_path / "x.txt"), 2, "x.html")
    for command in (["ablate", "tiny", path], ["training", "tiny", path], ["tasks", "tiny", "--text", path]):
        assert_refused(run(*command, "--out", tmp_path / "new.nc"), 2, "a folder is written", "new")
    assert not (tmp_path / "new.nc").exists()


def test_slips_are_found_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcr, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    path, out = tmp_path / "p.txt", ("--out", tmp_path / "new")
    path.write_text("Ann has 5 apples.\n")
    ablate = ("ablate", "tiny", path, *out)
    assert_refused(run(*ablate, "--doses", "0,2"), 2, "--doses 0,2", "from 0 to 1")
    assert_refused(run(*ablate, "--doses", "0"), 2, "--doses 0", "at least one above 0")
    assert_refused(run(*ablate, "--arms", "other-tokn"), 2, "other-token", "did you mean 'other-token'")
    nowhere = ("--translators", tmp_path / "none")
    assert_refused(run("tasks", "tiny", *out, "--text", path, *nowhere), 2, "none")


def test_advice_is_that_of_the_shell(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Ann has 5 apples."}]}\n')
    result = run("profile", "tiny", path, "--out", tmp_path / "p.nc")
    assert_refused(result, 2, "is a conversation", "use --chat-template")
    assert "chat_template=" not in result.stderr
    long = tmp_path / "long.txt"
    long.write_text("Ann has 5 apples. " * 400)
    result = run("profile", "tiny", long, "--out", tmp_path / "p.nc")
    assert_refused(result, 2, f"--max-tokens {mcr.models.model_facts(mcr.load_model('tiny')).n_ctx}")


def test_help_version_and_completion() -> None:
    assert run("-h").stdout == run("--help").stdout
    assert run("profile", "-h").stdout == run("profile", "--help").stdout
    assert run("--version").stdout == f"mcr-lens {mcr.__version__}\n"
    assert "--install-completion" in run("-h").stdout
