"""The page: what was found in words, then the sections, in one HTML file that asks for nothing."""

import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mcr_lens.errors import InputError
from mcr_lens.models import Model
from mcr_lens.results import Profile, atomic_write, check_place
from mcr_lens.viz.one_prompt import TextOrTokens
from mcr_lens.viz.report_page import results
from mcr_lens.viz.report_page.content import Block, Heading, Note, Section, Table, Words
from mcr_lens.viz.report_page.example import example_section
from mcr_lens.viz.report_page.made import made_section
from mcr_lens.viz.report_page.profiles import ProfileReport, compared, profile_section
from mcr_lens.viz.report_page.runs import Result, Run, read_runs, whole
from mcr_lens.viz.report_page.safe import plain

__all__ = ["check_page", "report"]

# Files that a page must never stand in the place of.
_RESULTS = (".nc", ".csv", ".json", ".toml", ".safetensors")
# Near the beginning of every page: such a file may be replaced by the next report.
_MARK = '<meta name="generator" content="mcr-lens report">'


def report(
    runs: Result | Sequence[Result],
    out: str | Path,
    model: Model | str | None = None,
    prompt: TextOrTokens | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write one self-contained HTML file about saved results, which opens without a network.

    It begins with what was found in words (phases with intervals, emergence layers, strongest sinks, claims
    supported or not), then come figures, the sinks of an example prompt, tables, and how the runs were made.
    Several profiles are compared: their findings side by side, their curves over relative depth. Nothing
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
        >>> prompts = mcr.load_prompts(mcr.word_problems(4), model)
        >>> measured = mcr.profile(model, prompts, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = report(measured, f"{folder}/report.html", model)
        ...     path.stat().st_size < 8_000_000
        True
    """
    out = Path(out).expanduser()
    check_page(out, overwrite)
    given = [runs] if not isinstance(runs, Sequence) or isinstance(runs, str) else list(runs)
    _check_once(given)
    read = read_runs(given)
    opening, sections = _content(read)
    example = example_section(read, model, prompt)
    sections = [*sections, example, made_section(read)]
    page = _template().render(
        title=_title(read),
        opening=opening,
        sections=sections,
        version=version("mcr-lens"),
        plotly=Markup(get_plotlyjs()),
        style=Markup(_file("page.css")),
        script=Markup(_file("page.js")),
        mark=Markup(_MARK),
    )
    with atomic_write(out) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    return out


def _check_once(results: Sequence[Result]) -> None:
    """Raise where a result would be compared with itself."""
    places = [Path(result).expanduser().resolve() for result in results if isinstance(result, str | Path)]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise InputError(f"{plain(place.name)}: given twice; name each result once")


def _title(runs: Sequence[Run]) -> str:
    named = list(dict.fromkeys(run.label for run in runs))
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return f"mcr_lens report: {', '.join(named[:3])}{more}"


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


def _content(runs: Sequence[Run]) -> tuple[list[Block], list[Section]]:
    """What was found in words, and the sections behind it."""
    profiles = [ProfileReport(run) for run in runs if run.kind == "profile"]
    opening: list[Block] = []
    sections: list[Section] = []
    if len(profiles) == 1:
        (only,) = profiles
        with whole(only.run.source):
            facts = only.facts()
            opening += [
                Heading(f"Profile: {only.run.label}"),
                Table(["", ""], list(facts.items()), prose=True),
            ]
            opening += [Words(only.words()), *map(Note, only.cautions())]
        sections.append(profile_section(only, f"Profile: {only.run.label}"))
    elif profiles:
        side_by_side, section = compared(profiles)
        opening += [Heading(f"{len(profiles)} profiles"), side_by_side]
        sections.append(section)
    found = [([run], results.study(run)) for run in runs if run.kind == "study"]
    lenses = [run for run in runs if run.kind == "lens"]
    if lenses:
        found.append((lenses, results.lenses(lenses)))
    found += [([run], results.patching(run)) for run in runs if run.kind == "patching"]
    found += [([run], results.training_run(run)) for run in runs if run.kind == "training"]
    found += [([run], results.tasks(run, _same_model(run, profiles))) for run in runs if run.kind == "tasks"]
    for shown, (words, section) in found:
        broken = [Note(f"{run.label}: {note}") for run in shown for note in run.broken]
        opening += [Heading(section.title), Words(words), *broken]
        sections.append(section)
    return opening, sections


def _same_model(run: Run, profiles: Sequence[ProfileReport]) -> Profile | None:
    """A profile whose phases can stand behind the tasks of the same model."""
    keys = ("model", "revision")
    for report in profiles:
        same = all(report.run.attributes.get(key) == run.attributes.get(key) for key in keys)
        if same and not report.run.attributes.get("interventions"):
            return report.profile
    return None


@cache
def _template() -> jinja2.Template:
    """The page with its holes; strings are made visible and escaped in all of them."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(_file("page.html"))


def _shown(value: Any) -> Any:
    return value if isinstance(value, Markup) else plain(value, 2_000)


def _file(name: str) -> str:
    return files("mcr_lens.viz.report_page").joinpath(name).read_text(encoding="utf-8")
