"""One self-contained page of saved results: words first, then figures, an example, tables, how it was made.

``gather.py`` reads results into runs, ``profiles.py``, ``experiments.py`` and ``example.py`` make sections
of blocks from them, ``html.py`` turns the sections into a page. Nothing is measured here but the example.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mcr_lens.errors import InputError
from mcr_lens.results import atomic_write, check_place
from mcr_lens.viz._report.example import example
from mcr_lens.viz._report.experiments import lenses, patching, study, tasks, training_run
from mcr_lens.viz._report.gather import Result, Run, gather, naming
from mcr_lens.viz._report.html import MARK, Block, plain, render
from mcr_lens.viz._report.profiles import profiles

if TYPE_CHECKING:
    from mcr_lens.models import Model
    from mcr_lens.prompts import PromptsLike

__all__ = ["check_page", "report"]

# Files that a page must never stand in the place of.
_RESULTS = (".nc", ".csv", ".json", ".toml", ".safetensors")


def report(
    runs: Result | Sequence[Result],
    out: str | Path,
    model: Model | str | None = None,
    prompt: PromptsLike | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write one self-contained HTML file about saved results, which opens without a network.

    It begins with what was found in words (phases with intervals, emergence layers, strongest sinks, claims
    supported or not), then come figures, the sinks of an example prompt, tables, and how the runs were made.
    Several profiles are compared: their findings side by side, their curves in one figure. Nothing
    from a file can run or load anything: every string is shown as text, no file is unpickled, and the page
    forbids requests.

    Args:
        runs: one result or several: saved profiles, ablation studies, lenses and patching sweeps; folders of
            ``mcr-lens ablate``, ``training``, ``tasks`` and ``sweep``; or the same in memory.
        out: the file to write. A report that is there is replaced, another file only with ``overwrite``.
        model: for the example; by default the bundled model or the folder of weights on this machine that a
            run names, else the report says how to get it.
        prompt: for the example; by default a made-up word problem.
        overwrite: replace whatever file is there.

    Returns:
        The path of the file.

    Raises:
        InputError: one line for a file that is missing, broken or no result, a model or prompt that was
            given and cannot be used, or a place that cannot be written.

    Example:
        >>> import tempfile, mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> prompts = mcr.load_prompts(mcr.prompts.word_problems(4), model)
        >>> measured = mcr.profile(model, prompts, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = report(measured, f"{folder}/report.html", model)
        ...     path.stat().st_size < 8_000_000
        True
    """
    out = Path(out).expanduser()
    check_page(out, overwrite)
    gathered = gather(runs)
    sections = _results(gathered)
    sections["Sinks on an example prompt"] = example(gathered, model, prompt)
    sections["How it was made"] = _provenance(gathered)
    names = list(dict.fromkeys(run.label for run in gathered))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    page = render(f"mcr_lens report: {', '.join(names[:3])}{more}", sections)
    with atomic_write(out) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    return out


def check_page(out: Path, overwrite: bool = False) -> None:
    """See before a long run whether a report can be written there.

    Raises:
        InputError: when it cannot, or when a file is there that is no report and is not to be replaced.
    """
    out = out.expanduser()
    if out.suffix.lower() in _RESULTS:
        raise InputError(f"{out}: the name of a result; a report is a page, such as {out.stem}.html")
    check_place(out)
    if overwrite or not os.path.lexists(out):
        return
    try:
        with out.open("rb") as file:
            is_report = MARK.encode() in file.read(1_000)
    except OSError as error:
        raise InputError(f"{out}: cannot be read ({error.strerror}); choose another place") from error
    if not is_report:
        raise InputError(
            f"{out}: there already, and no report of mcr-lens; choose another place, or replace it with "
            "overwrite=True (--overwrite)"
        )


def _results(runs: Sequence[Run]) -> dict[str, list[Block]]:
    """What was found in words, and a section behind it for every kind of result."""
    of_kind = {run.kind: [each for each in runs if each.kind == run.kind] for run in runs}
    measured = of_kind.get("profile", [])
    parts = [profiles(measured)] if measured else []
    parts += [lenses(of_kind["lens"])] if "lens" in of_kind else []
    with_phases = partial(tasks, profiles=measured)
    each = {"study": study, "patching": patching, "training": training_run, "tasks": with_phases}
    for kind, part in each.items():
        for run in of_kind.get(kind, ()):
            with naming(run.source):
                parts.append(part(run))
    sections: dict[str, list[Block]] = {"What was found": []}
    for title, words, blocks in parts:
        sections["What was found"] += [{"heading": title}, *words]
        sections[title] = blocks
    return sections


def _provenance(runs: Sequence[Run]) -> list[Block]:
    """A table per run: model, revision, settings, prompts with their digest, versions."""
    tables: list[Block] = []
    for run in runs:
        rows = {"file": run.source}
        for name, value in run.attributes.items():
            if name == "failed_checks" and value is not None:
                rows["self-check"] = f"failed: {_text(value)}" if value else "passed"
            elif name not in ("members", "arms", "learned_sink", "d_vocab"):
                rows[plain(name)] = _text(value)
        table = {"table": pd.DataFrame({"": rows}, dtype=object), "prose": True}
        one = len(runs) == 1
        tables.append(
            table if one else {"more": f"{run.label}: {run.kind} ({run.source})", "blocks": [table]}
        )
    return tables


def _text(value: Any) -> str:
    """Plain values in a row, as long as they are few."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)
