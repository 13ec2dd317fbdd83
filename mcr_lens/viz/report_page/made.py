"""How the runs of a report were made: all that a result says of itself."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mcr_lens.viz.report_page.content import Block, More, Section, Table
from mcr_lens.viz.report_page.runs import Run

__all__ = ["made_section"]

# In this order; what else the file says follows.
_FIRST = (
    "model",
    "revision",
    "backend",
    "dtype",
    "device",
    "load_options",
    "processing",
    "prompts",
    "estimator",
    "sink_position",
)
_SKIPPED = ("members", "arms", "learned_sink", "d_vocab", "failed_checks")
_MOST = 40


def made_section(runs: Sequence[Run]) -> Section:
    """A table a run: model, revision, settings, prompts with their digest, versions."""
    tables: list[Block] = [_table(run) for run in runs]
    if len(runs) > 1:
        titles = [f"{run.label}: {_KINDS[run.kind]} ({run.source})" for run in runs]
        tables = [More(title, [each]) for title, each in zip(titles, tables, strict=True)]
    return Section("How it was made", tables)


def _table(run: Run) -> Table:
    made = run.attributes
    names = [name for name in _FIRST if name in made]
    names += [str(name) for name in made if name not in (*_FIRST, *_SKIPPED)]
    rows = [["file", run.source], *(row for name in names[:_MOST] for row in _rows(name, made[name]))]
    checks = made.get("failed_checks")
    if checks is not None:
        rows.append(["self-check", f"failed: {_said(checks)}" if checks else "passed"])
    return Table(["", ""], rows, prose=True)


def _rows(name: str, value: Any) -> list[list[str]]:
    if name == "prompts" and isinstance(value, Mapping):
        rest = {key: each for key, each in value.items() if key not in ("source", "digest")}
        return [
            ["prompts", str(value.get("source"))],
            ["prompt hash", str(value.get("digest"))],
            ["prompts, further", _said(rest)],
        ]
    return [[name.replace("_", " "), _said(value)]]


def _said(value: Any) -> str:
    """Plain values in a row; what is nested as JSON."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_said(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_said, value)) or "none"
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


_KINDS = {
    "profile": "profile",
    "study": "ablation study",
    "lens": "lens",
    "patching": "patching sweep",
    "training": "training run, settings of its last step",
    "tasks": "tasks by depth",
}
