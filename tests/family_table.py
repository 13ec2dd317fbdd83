"""The tables of `docs/models.md`: one a version of TransformerLens and model class, between two markers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "models.md"

Outcomes = Mapping[str, Mapping[str, str | None]]  # by family, then by check; None: it works


def markers(backend: str) -> tuple[str, str]:
    """What stands above and below the table of a model class, on the installed line of TransformerLens."""
    line = version("transformer-lens").split(".")[0]
    return f"<!-- table: transformer-lens {line}, {backend} -->\n", "<!-- /table -->\n"


def rendered(outcomes: Outcomes) -> str:
    """A Markdown table, and below it the reasons by number."""
    checks = list(next(iter(outcomes.values())))
    reasons: list[str] = []
    lines = [f"| family | {' | '.join(checks)} |", "|---" * (1 + len(checks)) + "|"]
    for family, row in outcomes.items():
        cells = []
        for check in checks:
            found = row[check]
            if found is None:
                cells.append("works")
                continue
            how, _, told = found.partition(": ")
            # The way out, after the semicolon, is said above the tables once for all.
            reason = told.removeprefix("the folder: ").partition("; ")[0]
            if reason not in reasons:
                reasons.append(reason)
            cells.append(f"{how} ({reasons.index(reason) + 1})")
        lines.append(f"| {family} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n" + "\n".join([*lines, *([""] if notes else []), *notes]) + "\n\n"


def written(backend: str) -> str:
    """The table that the page has."""
    opening, closing = markers(backend)
    return PAGE.read_text(encoding="utf-8").split(opening)[1].split(closing)[0]


def renew(backend: str, table: str) -> None:
    """Put a table into the page in place of the one that is there."""
    opening, closing = markers(backend)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(opening)
    PAGE.write_text(before + opening + table + closing + rest.partition(closing)[2], encoding="utf-8")
