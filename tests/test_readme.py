"""The README is true: its Python runs as it stands, and its table names what a profile holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, blocks, run_python

import mcr_lens as mcr

README = ROOT / "README.md"


@pytest.fixture(scope="module")
def text() -> str:
    return README.read_text(encoding="utf-8")


def test_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(list(blocks(README, "python"))) >= 4
    run_python(README)


def test_table_names_what_a_profile_holds(text: str, bundled_model: Any) -> None:
    prompts = mcr.load_prompts(mcr.prompts.word_problems(2), bundled_model)
    profile = mcr.profile(bundled_model, prompts, progress=False)
    section = text.split("## What is measured")[1].split("\n## ")[0]
    # First cells of the tables: `variable`, or `method()` for what is derived.
    named = set(re.findall(r"`([a-z_]+(?:\(\))?)`", " ".join(re.findall(r"^\| *(`[^|]*)\|", section, re.M))))
    methods = {name.removesuffix("()") for name in named if name.endswith("()")}
    assert {name for name in named if not name.endswith("()")} == {str(v) for v in profile.data.data_vars}
    assert {"sink_rate", "col_sum_rate", "sink_versus_identity", "slack", "tightness"} <= methods
    assert all(callable(getattr(profile, name)) for name in methods)


def test_linked_files_exist(text: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", text)
    paths = [first or second for first, second in links]
    assert paths
    assert [path for path in paths if not (README.parent / path).exists()] == []


def test_outputs_are_filled(text: str) -> None:
    outputs = re.findall(r"<!-- output: (.*?) -->\n(.*?)<!-- /output -->", text, re.DOTALL)
    assert outputs
    assert [command for command, output in outputs if not output.startswith("```text\n")] == []
