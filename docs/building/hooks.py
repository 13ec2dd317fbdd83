"""What MkDocs runs while it builds: files outside ``docs/`` join the site, and formulas become MathML.

Named in ``mkdocs.yml`` under ``hooks``. A file outside ``docs/`` has the same place in the site as in the
repository; nothing is copied by hand.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

# Pages, and what pages link to.
_OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "mcr_lens/tiny/README.md",
    "notebooks/*.ipynb",
    "benchmarks/paper/*.toml",
)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL)

# What a notebook's page would load from other hosts for formulas and diagrams; ours have none.
_LOADERS = re.compile(
    r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->|"
    r'<script type="module">(?:(?!</script>).)*?mermaid.*?</script>',
    re.DOTALL,
)


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository that the site shows or links to."""
    for pattern in _OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            place = path.relative_to(ROOT).as_posix()
            files.append(File(place, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links into and out of ``docs/`` take one step less: the site has the pages of ``docs/`` at its top."""
    if page.file.src_dir == config.docs_dir:
        steps = "../" * page.file.src_uri.count("/")
        return markdown.replace(f"](../{steps}", f"]({steps}")
    return markdown.replace("](docs/", "](")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas, as arithmatex leaves them, to MathML; notebooks lose what loads scripts from elsewhere."""

    def drawn(match: re.Match[str]) -> str:
        if match[3] is None:
            return formula(unescape(match[2]))
        # What a wide space separates may stand on lines of its own where there is no room.
        parts = [formula(part, display=True) for part in unescape(match[3]).split(r"\quad")]
        return f'<div class="formula">{"".join(parts)}</div>'

    if page.file.src_uri.endswith(".ipynb"):
        return _LOADERS.sub("", html)
    return _FORMULA.sub(drawn, html)


def formula(latex: str, *, display: bool = False) -> str:
    """LaTeX as MathML, which browsers draw by themselves: no script, no font, no request.

    Raises:
        ValueError: where a command is not known, which would appear on the page as it is typed.
    """
    try:
        drawn = convert(latex.strip(), display="block" if display else "inline")
    except Exception as error:  # the converter's errors have no class in common
        raise ValueError(f"formula {latex!r}: {type(error).__name__}") from error
    if unknown := re.search(r"\\[A-Za-z]+", drawn):
        raise ValueError(f"formula {latex!r}: {unknown[0]} is not known to latex2mathml")
    return drawn
