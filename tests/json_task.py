"""A multiple-choice task of the lm-evaluation-harness over rows that a test writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["json_task"]


def json_task(name: str, folder: Path, rows: list[str], target: str) -> dict[str, Any]:
    """A task whose rows of JSON have a question ``q`` and choices ``c``; ``target``: of the right one."""
    (folder / "test.json").write_text("".join(rows))
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "test.json")}, "cache_dir": str(folder)},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "c",
        "doc_to_target": target,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
