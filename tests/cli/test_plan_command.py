"""``mcr-lens plan``: what it prints, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import assert_refused, run

# Speed that is told: little is measured.
QUICK = ("--flops", "1e12")


def _verdicts(printed: str) -> dict[str, str]:
    """The first two columns of the first table, in its settings' rows."""
    rows = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines() if "float" in line]
    return {row[1]: row[2] for row in rows if len(row) > 2}


def test_a_plan_by_prompts(llama_folder: Path, questions: Path) -> None:
    result = run("plan", llama_folder, questions, "--field", "question", "--n", 5, "--memory", "cpu", *QUICK)
    assert result.exit_code == 0, result.output
    assert "5 prompts of up to 13 tokens" in result.stdout
    assert _verdicts(result.stdout)["float32, cpu"] == "yes"
    assert "moment: pattern" in result.stdout


def test_a_plan_by_numbers_for_another_machine() -> None:
    machine = ("--memory", "2x24GB", "--host-memory", "64GB", "--dtype", "bfloat16")
    result = run("plan", "tiny", "--tokens", 128, "--n", 64, *machine, *QUICK)
    assert result.exit_code == 0, result.output
    assert "64 prompts of up to 128 tokens, 8,192 in all" in result.stdout
    places = ("1 device", "2 devices", "offload to CPU", "offload to disk", "cpu")
    assert _verdicts(result.stdout) == {f"bfloat16, {place}": "yes" for place in places}
    assert "2 device(s) of 24 GB, 64 GB on the host" in result.stdout


def test_no_weight_is_needed_nor_anything_written(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_bytes((llama_folder / "config.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    result = run("plan", tmp_path, "--tokens", "64", *QUICK)
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_what_does_not_fit_is_said(llama_folder: Path) -> None:
    machine = ("--memory", "1MB", "--host-memory", "1MB")
    result = run("plan", llama_folder, "--tokens", 64, *machine, *QUICK)
    assert result.exit_code == 0, result.output
    assert "Nothing fits" in result.stdout
    verdicts = _verdicts(result.stdout)
    assert verdicts["float32, 1 device"] == "no: both" and verdicts["float32, cpu"] == "no: host"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "give either PROMPTS or --tokens"),
        (("some.txt", "--tokens", "5"), "give either PROMPTS or --tokens"),
        (("--tokens", "1"), "at least 2"),
        (("--tokens", "8", "--n", "0"), "--n 0"),
        (("--tokens", "8", "--memory", "much"), "80GB"),
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
