"""Renew everything in README.md, docs/ and notebooks/ that states numbers of the bundled model.

    python docs/regenerate.py                    # all of it; `make readme` does the same
    python docs/regenerate.py --skip-memory      # without the memory benchmark, which takes minutes
    python docs/regenerate.py --only readme      # one of: picture, readme, pages, paper, notebooks

On a page whatever stands between ``<!-- output: COMMAND -->`` and ``<!-- /output -->`` is replaced by what
COMMAND prints; the command ``python`` means the Python block above the marker. A page is run from
top to bottom in one empty folder: what a command writes, a later block can read. The picture and the
figures of the notebooks are static images: this needs kaleido and a Chromium or Chrome (the tests need
neither). Nothing is written where a command fails.
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [ROOT / "docs" / "how-to" / name for name in ("command-line.md", "long-prompts.md")]
PAPER = ROOT / "docs" / "paper.md"
PICTURE = ROOT / "docs" / "images" / "depth_curves.svg"
SCREENSHOTS = ROOT / "docs" / "images"
CHROMIUM = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
BENCHMARK = "python benchmarks/memory_flat.py"
# Not shipped. Commands find gsm8k/, wikitext2/ and sst2/ in their folder; without them the blocks that read
# them stay as they are, and the page on the paper cannot be renewed.
DATA = ROOT.parent / "shared" / "data"

STEP = re.compile(
    r"^```python\n(?P<python>.*?)^```$|"
    r"^(?P<opening><!-- output: (?P<command>[^\n]+) -->\n).*?^<!-- /output -->$",
    re.DOTALL | re.MULTILINE,
)


def main() -> None:
    """Regenerate what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=["picture", "readme", "pages", "paper", "notebooks"])
    parser.add_argument("--skip-memory", action="store_true", help="leave the memory table as it is")
    arguments = parser.parse_args()
    only = arguments.only
    if only in (None, "picture"):
        draw_picture()
        take_screenshots()
    if only in (None, "readme"):
        renew_page(README)
    if only in (None, "pages"):
        for page in PAGES:
            renew_page(page, with_memory=not arguments.skip_memory)
    if only in (None, "paper") and DATA.is_dir():
        renew_page(PAPER)
    if only in (None, "notebooks"):
        for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
            renew_notebook(path)


def draw_picture() -> None:
    """The depth curves of the bundled model as an SVG with no background of its own."""
    import mcr_lens as mcr

    model = mcr.load_model("tiny")
    prompts = mcr.load_prompts(mcr.prompts.word_problems(64), model)
    figure = mcr.viz.depth_curves(mcr.profile(model, prompts, progress=False))
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_bytes(figure.to_image("svg", width=960, height=620))
    print(f"wrote {PICTURE.relative_to(ROOT)}, {PICTURE.stat().st_size / 1024:.0f} KiB")


def take_screenshots() -> None:
    """Heads of one layer, and the top of a report, as a browser shows them."""
    from playwright.sync_api import sync_playwright

    import mcr_lens as mcr

    model = mcr.load_model("tiny")
    text = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        heads, run, report = (Path(folder, name) for name in ("heads.html", "run.nc", "report.html"))
        mcr.viz.attention_sinks(model, text, layer=5).save(heads)
        mcr.profile(model, mcr.load_prompts(mcr.prompts.word_problems(64), model), progress=False).save(run)
        mcr.viz.report(run, report, model, text)
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        for page, height in ((heads, 1180), (report, 1000)):
            tab = browser.new_page(viewport={"width": 1280, "height": height})
            tab.goto(page.as_uri())
            tab.wait_for_timeout(2000)
            path = SCREENSHOTS / f"{page.stem}.png"
            tab.screenshot(path=path)
            print(f"wrote {path.relative_to(ROOT)}, {path.stat().st_size / 1024:.0f} KiB")


def renew_page(page: Path, with_memory: bool = True) -> None:
    """Run a page from top to bottom, and fill its output blocks with what was printed."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = ""

    def renewed(match: re.Match[str]) -> str:
        nonlocal printed
        if match["python"] is not None:
            printed = run_python(match["python"], page.name, namespace)
            return match[0]
        command = match["command"]
        if command == "python":
            output = printed
        elif why := _left_out(command, with_memory):
            print(f"left as it is: the output of {command!r} ({why})")
            return match[0]
        else:
            output = run(command)
        return f"{match['opening']}```text\n{output.rstrip()}\n```\n<!-- /output -->"

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for data in DATA.glob("*/"):
            Path(data.name).symlink_to(data)
        text = STEP.sub(renewed, page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")
    print(f"wrote {page.relative_to(ROOT)}")


def _left_out(command: str, with_memory: bool) -> str | None:
    """Why a command is not run here, or ``None``."""
    if command == BENCHMARK and not with_memory:
        return "skipped"
    if (command == BENCHMARK or "gsm8k" in command) and not DATA.is_dir():
        return f"{DATA} is not there"
    return None


def run_python(block: str, name: str, namespace: dict[str, object]) -> str:
    """Run a Python block among those before it; what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(block, name, "exec"), namespace)
    return printed.getvalue()


def run(command: str) -> str:
    """What a command prints; programs are those of this environment, ``benchmarks/`` that of the project."""
    words = shlex.split(command)
    words = [str(ROOT / word) if word.startswith("benchmarks/") else word for word in words]
    program = sys.executable if words[0] == "python" else str(Path(sys.executable).parent / words[0])
    done = subprocess.run([program, *words[1:]], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def renew_notebook(path: Path) -> None:
    """Execute a notebook in place, its figures as PNG so that they show on any page."""
    import nbformat
    from nbclient import NotebookClient

    os.environ["PLOTLY_RENDERER"] = "png"
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        # Progress bars and the times of execution change every run and say nothing.
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    _, notebook = nbformat.validator.normalize(notebook)
    nbformat.write(notebook, path)
    size = path.stat().st_size / 1024
    print(f"wrote {path.relative_to(ROOT)}, {size:.0f} KiB, {_pictures(notebook)} pictures")


def _is_progress(output: dict) -> bool:
    widget = "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    return widget or output.get("name") == "stderr"


def _pictures(notebook: dict) -> int:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


if __name__ == "__main__":
    main()
