"""The documentation is true: blocks run, commands parse, every public name is there, no host is asked."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, blocks, check_shell_line, run_python, shell_lines
from typer.main import get_command

import mcr_lens as mcr
from mcr_lens.cli import app

DOCS = ROOT / "docs"
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
PAGES = [
    DOCS / "index.md",
    *HOW_TO,
    DOCS / "from-transformerlens.md",
    DOCS / "gallery.md",
    DOCS / "models.md",
    DOCS / "precision.md",
    DOCS / "scale.md",
    DOCS / "paper.md",
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "mcr_lens" / "tiny" / "README.md",
]
PACKAGES = (
    "experiments",
    "hooks",
    "metrics",
    "models",
    "phases",
    "prompts",
    "results",
    "stats",
    "sweeps",
    "viz",
)
# Packages whose outputs the pages of tasks speak of.
NEEDS = {"tasks.md": "sklearn"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built as ``make docs`` builds it."""
    pytest.importorskip("mkdocs", reason="needs the docs extra")
    pytest.importorskip("mkdocstrings", reason="needs the docs extra")
    pytest.importorskip("mkdocs_jupyter", reason="needs the docs extra")
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "JUPYTER_PLATFORM_DIRS": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stdout + built.stderr
    return folder


RUN = [DOCS / name for name in ("index.md", "from-transformerlens.md", "gallery.md", "models.md")]


@pytest.mark.parametrize("page", [*RUN, *HOW_TO], ids=name_of)
def test_python_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name])
    monkeypatch.chdir(tmp_path)
    run_python(page)


def test_every_how_to_page_has_python() -> None:
    assert all(list(blocks(page, "python")) for page in HOW_TO)


def test_the_gallery_draws_every_figure() -> None:
    drawn = {
        name for code, _ in blocks(DOCS / "gallery.md", "python") for name in re.findall(r"viz\.(\w+)", code)
    }
    assert drawn == set(dir(mcr.viz)) - {"View"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_shell_lines_are_what_the_command_line_takes(page: Path) -> None:
    for line in shell_lines(page):
        check_shell_line(line)


def test_commands_are_found_on_the_pages() -> None:
    commands = [line for page in PAGES for line in shell_lines(page) if line.startswith("mcr-lens")]
    assert set(_commands()) <= {line.split()[1] for line in commands}


def test_the_page_of_the_command_line_has_every_command() -> None:
    page = DOCS / "how-to" / "command-line.md"
    shown = {line.split()[1] for line in shell_lines(page) if line.startswith("mcr-lens")}
    headings = set(re.findall(r"^## ([a-z]+)$", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert shown == headings == set(_commands())


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("mcr-lens profile tiny", "Missing parameter: prompts"),
        ("mcr-lens lens tiny questions.jsonl", "Missing parameter: out"),
        ("mcr-lens sweep grid.toml --out results --no-such", "No such option"),
        ("mcr-lens profile tiny a.txt --out a.nc --n many", "valid int"),
        ("mcr-lens fly", "No such command"),
        ("make coffee", "coffee"),
        ('pip install ".[nothing]"', "nothing"),
        ("python benchmarks/nowhere.py", "nowhere"),
        ("rm results", "rm"),
    ],
)
def test_a_line_that_is_wrong_is_found(line: str, complaint: str) -> None:
    with pytest.raises(Exception, match=complaint):
        check_shell_line(line)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_scripts_are_valid_shell() -> None:
    scripts = [code for page in HOW_TO for code, _ in blocks(page, "sh") if code.startswith("#!")]
    scripts += [path.read_text() for path in (DOCS / "how-to").glob("*.sbatch")]
    assert len(scripts) >= 2
    for script in scripts:
        checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


def test_grids_can_be_read(tmp_path: Path) -> None:
    grids = list(blocks(DOCS / "how-to" / "sweep.md", "toml"))
    assert grids
    for text, _ in grids:
        (tmp_path / "grid.toml").write_text(text)
        assert mcr.sweeps.read_grid(tmp_path / "grid.toml").models


def test_every_variable_of_a_profile_has_its_formula(llama_profile: mcr.Profile) -> None:
    text = (DOCS / "formulas.md").read_text(encoding="utf-8")
    missing = [str(name) for name in llama_profile.data.data_vars if str(name) not in text]
    assert missing == []
    assert not re.search(r"`profile\.data\.[a-z_]+`", text)


def test_the_page_of_measures_names_what_a_profile_holds(llama_profile: mcr.Profile) -> None:
    text = (DOCS / "measures.md").read_text(encoding="utf-8")
    # First cells of the tables: `variable`, or `method()` for what is derived.
    named = set(re.findall(r"`([a-z_]+(?:\(\))?)`", " ".join(re.findall(r"^\| *(`[^|]*)\|", text, re.M))))
    methods = {name.removesuffix("()") for name in named if name.endswith("()")}
    variables = {str(name) for name in llama_profile.data.data_vars}
    assert {name for name in named if not name.endswith("()")} == variables
    assert {"sink_rate", "col_sum_rate", "sink_versus_identity", "slack", "tightness"} <= methods
    assert all(callable(getattr(llama_profile, name)) for name in methods)


def test_every_ability_has_a_name_and_a_test_that_exist() -> None:
    text = (DOCS / "abilities.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        for line in text.splitlines()
        if line.startswith("| ") and "`tests/" in line
    ]
    assert len(rows) >= 60
    assert len(re.findall(r"^\| (?!ability|---)", text, re.MULTILINE)) == len(rows)
    for ability, names, tests in rows:
        assert ability
        assert _wrong_names(re.findall(r"`([^`]+)`", names)) == [], ability
        files = re.findall(r"`([^`]+)`", tests)
        assert files, ability
        assert [file for file in files if not (ROOT / file).is_file()] == [], ability


@pytest.mark.parametrize("name", ["mcr.no_such", "mcr-lens fly", "make coffee", "Profile.no_such", "sed"])
def test_a_name_that_does_not_exist_is_found(name: str) -> None:
    assert _wrong_names(["mcr.profile", "mcr.Profile.sink_rate", name]) == [name]


def test_every_public_name_stands_on_a_page_of_the_reference() -> None:
    directives = {
        name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    # An object may stand under the name of its package or of mcr_lens itself.
    public = {f"mcr_lens.{name}" for name in mcr.__all__}
    for package in PACKAGES:
        for name in importlib.import_module(f"mcr_lens.{package}").__all__:
            own = f"mcr_lens.{package}.{name}"
            public.add(f"mcr_lens.{name}" if name in mcr.__all__ and own not in directives else own)
    shown = directives | {f"mcr_lens.{name.split('.')[-1]}" for name in directives if name.count(".") > 1}
    assert public - shown == set()
    assert all(_exists(name) for name in directives)


def test_the_built_reference_has_an_anchor_for_every_public_name(site: Path) -> None:
    content = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    inventory = {line.split(" ")[0] for line in zlib.decompress(content).decode().splitlines()}
    # ``mcr.tasks`` is another name of a module that stands there under its own.
    assert {f"mcr_lens.{name}" for name in mcr.__all__} - inventory - {"mcr_lens.tasks"} == set()


def test_pages_of_the_site_ask_nothing_of_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        reader = _Requests()
        reader.feed(page.read_text(encoding="utf-8"))
        foreign = [address for address in reader.asked if re.match(r"(?:https?:)?//", address)]
        assert foreign == [], page
        loaded = re.findall(r"(?:import|fetch)\(['\"](?:https?:)?//[^'\"]+", page.read_text(encoding="utf-8"))
        assert loaded == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


def test_links_between_pages_lead_to_files(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # shown at any address, so its links are absolute
            continue
        reader = _Requests()
        reader.feed(page.read_text(encoding="utf-8"))
        for address in reader.linked:
            path = address.split("#")[0].split("?")[0]
            if path and not re.match(r"[a-z]+:", path):
                assert (page.parent / path).exists(), f"{page}: {address}"


def test_formulas_are_drawn_without_a_script(site: Path) -> None:
    html = (site / "formulas.html").read_text(encoding="utf-8")
    assert html.count("<math") > 60
    assert "arithmatex" not in html
    assert "\\frac" not in html


def test_notebooks_are_in_the_site_with_their_outputs(site: Path) -> None:
    notebooks = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert sorted(path.stem for path in (site / "notebooks").glob("*.html")) == notebooks
    assert all("data:image/png" in path.read_text("utf-8") for path in (site / "notebooks").glob("*.html"))


def test_every_formula_is_drawn_in_the_site(site: Path) -> None:
    drawn = (site / "formulas.html").read_text("utf-8")
    assert drawn.count("<math") > 60
    assert "arithmatex" not in drawn


@pytest.mark.parametrize("latex", [r"\nosuch", r"\left( a", "a_b_c"])
def test_a_formula_that_cannot_be_drawn_stops_the_build(latex: str) -> None:
    pytest.importorskip("latex2mathml", reason="needs the docs extra")
    pytest.importorskip("mkdocs", reason="needs the docs extra")
    spec = importlib.util.spec_from_file_location("building", DOCS / "building" / "hooks.py")
    assert spec is not None and spec.loader is not None
    building = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(building)
    assert "<mfrac>" in building.formula(r"\frac{a}{b}")
    with pytest.raises(ValueError, match="formula"):
        building.formula(latex)


def _commands() -> list[str]:
    group: Any = get_command(app)
    return sorted(group.commands)


def _wrong_names(names: list[str]) -> list[str]:
    """Those that are no name of ``mcr``, no command with its options and no target of make."""
    return [name for name in names if not _is_right(name)]


def _is_right(name: str) -> bool:
    if name.startswith("mcr."):
        return _exists("mcr_lens." + name.removeprefix("mcr.").split("(")[0])
    words = name.split()
    if words[0] == "mcr-lens":
        group: Any = get_command(app)
        command = group.commands.get(words[1])
        options = {option for each in getattr(command, "params", ()) for option in each.opts}
        return command is not None and {word for word in words[2:] if word.startswith("--")} <= options
    if words[0] == "make":
        return re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE) is not None
    return (ROOT / name).exists() and "/" in name


class _Requests(HTMLParser):
    """What a page loads by itself, and what it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.linked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attrs)
        for name in ("src", "srcset", "poster", "data"):
            if given.get(name):
                self.asked.append(given[name])
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.asked.append(given.get("href") or "")
        if tag == "a" and given.get("href"):
            self.linked.append(given["href"])


def _exists(path: str) -> bool:
    parts = path.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        return all((found := getattr(found, part, None)) is not None for part in parts[split:])
    return False
