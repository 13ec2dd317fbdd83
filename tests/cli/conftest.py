"""Prompts for the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve questions of the tiny vocabulary, of several lengths. Tests must not write into it."""
    path = tmp_path_factory.mktemp("prompts") / "questions.jsonl"
    rows = [{"question": f"w{i} w{i + 1} w{i + 2} " * (1 + i % 4), "answer": "w0"} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
