"""The README is true: its Python runs as it stands, its outputs are filled, its links lead to files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT, blocks, run_python

README = ROOT / "README.md"


@pytest.fixture(scope="module")
def text() -> str:
    return README.read_text(encoding="utf-8")


def test_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(list(blocks(README, "python"))) >= 4
    run_python(README)


def test_linked_files_exist(text: str) -> None:
    paths = re.findall(r"\]\(([^)#:]+)\)", text)
    assert len(paths) > 20
    assert [path for path in paths if not (README.parent / path).exists()] == []


def test_every_how_to_page_is_named(text: str) -> None:
    pages = {path.name for path in (ROOT / "docs" / "how-to").glob("*.md")} - {"index.md"}
    assert [page for page in sorted(pages) if f"(docs/how-to/{page})" not in text] == []


def test_outputs_are_filled(text: str) -> None:
    outputs = re.findall(r"<!-- output: (.*?) -->\n(.*?)<!-- /output -->", text, re.DOTALL)
    assert len(outputs) >= 3
    assert [command for command, output in outputs if not re.match(r"```text\n[^`]", output)] == []
