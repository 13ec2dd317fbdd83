"""One self-contained page of saved results: words first, then figures, an example, tables, how it was made.

``gather.py`` reads results into runs, ``sections.py`` and ``example.py`` gather what the templates show of
them, ``html.py`` fills the templates in. Nothing is measured here but the example.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from markupsafe import Markup
from plotly.offline import get_plotlyjs

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.results import atomic_write, check_place
from mcr_lens.viz._report.example import example
from mcr_lens.viz._report.gather import Source, gather
from mcr_lens.viz._report.html import template
from mcr_lens.viz._report.sections import section, sections

# Files that a page must never stand in the place of.
_RESULTS = (".nc", ".csv", ".json", ".toml", ".safetensors")
# Near the beginning of every page: such a file may be replaced by the next report.
_MARK = '<meta name="generator" content="mcr-lens report">'


def report(
    runs: Source | Sequence[Source],
    out: str | Path,
    model: mcr.models.Model | str | None = None,
    prompt: mcr.prompts.PromptsLike | None = None,
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
    names = list(dict.fromkeys(run.label for run in gathered))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    page = template("page.html").render(
        title=f"mcr_lens report: {', '.join(names[:3])}{more}",
        parts=list(sections(gathered)),
        example=section("example.html", "the example", **example(gathered, model, prompt)),
        made=section("made.html", "these runs", runs=gathered),
        version=version("mcr-lens"),
        plotly=Markup(get_plotlyjs()),
        mark=Markup(_MARK),
    )
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
            is_report = _MARK.encode() in file.read(1_000)
    except OSError as error:
        raise InputError(f"{out}: cannot be read ({error.strerror}); choose another place") from error
    if not is_report:
        raise InputError(
            f"{out}: there already, and no report of mcr-lens; choose another place, or replace it with "
            "overwrite=True (--overwrite)"
        )
