"""``mcr-lens plan``: what it prints, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import assert_refused, run


def _verdicts(printed: str) -> dict[str, str]:
    """The first two columns of the first table."""
    rows = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines() if "float" in line]
    return {row[1]: row[2] for row in rows if len(row) > 2}


def test_a_plan_by_prompts(llama_folder: Path, questions: Path) -> None:
    result = run("plan", llama_folder, questions, "--field", "question", "--n", 5, "--devices", 0)
    assert result.exit_code == 0, result.output
    assert "5 prompts of up to 13 tokens" in result.stdout
    assert _verdicts(result.stdout)["float32"] == "yes"
    assert "moment: pattern" in result.stdout


def test_a_plan_by_numbers_for_another_machine() -> None:
    machine = ("--devices", 2, "--memory", "24GB", "--host-memory", "64GB", "--dtype", "bfloat16")
    result = run("plan", "tiny", "--tokens", 128, "--n", 64, *machine)
    assert result.exit_code == 0, result.output
    assert "64 prompts of up to 128 tokens, 8,192 in all" in result.stdout
    assert _verdicts(result.stdout) == {"bfloat16": "yes"}
    assert "2 x 24 GB, 64 GB on the host" in result.stdout
    assert 'device_map="auto"' in result.stdout


def test_no_weight_is_needed_nor_anything_written(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_bytes((llama_folder / "config.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    result = run("plan", tmp_path, "--tokens", "64")
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_what_does_not_fit_is_said(llama_folder: Path) -> None:
    machine = ("--memory", "1MB", "--host-memory", "1MB")
    result = run("plan", llama_folder, "--tokens", 64, *machine)
    assert result.exit_code == 0, result.output
    assert "Nothing fits" in result.stdout
    verdicts = _verdicts(result.stdout)
    assert verdicts == dict.fromkeys(["float32", "bfloat16"], "no: device and host")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "give either PROMPTS or --tokens"),
        (("some.txt", "--tokens", "5"), "give either PROMPTS or --tokens"),
        (("--tokens", "1"), "at least 2"),
        (("--tokens", "8", "--n", "0"), "--n = 0"),
        (("--tokens", "8", "--memory", "much"), "80GB"),
        (("--tokens", "8", "--memory", "24"), "24GB"),
        (("--tokens", "8", "--devices", "-1"), "devices -1"),
        (("--tokens", "8", "--dtype", "int8"), "dtype"),
        (("--tokens", "8", "--batch-size", "x"), "--batch-size"),
        (("--tokens", "8", "--batch-size", "9" * 5000), "--batch-size"),
        (("--tokens", "100000"), "context"),
        (("missing.txt",), "missing.txt"),
        (("--tokens", "8", "--revision", "step512"), "revision 'step512'"),
        (("--tokens", "8", "--field", "text"), "--field is for PROMPTS"),
        (("--tokens", "8", "--max-tokens", "4"), "--max-tokens is for PROMPTS"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], part: str, llama_folder: Path) -> None:
    assert_refused(run("plan", llama_folder, *arguments), 2, part)


def test_the_bundled_model_has_the_revisions_of_its_checkpoints() -> None:
    assert_refused(run("plan", "tiny", "--tokens", "8", "--revision", "step7"), 2, "tiny has step0, step")


def test_a_model_without_a_configuration_is_one_line(tmp_path: Path) -> None:
    assert_refused(run("plan", tmp_path, "--tokens", "8"), 2, "no config.json")
