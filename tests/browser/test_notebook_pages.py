"""Notebooks exported with our settings are whole pages: figures, views, and no request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from profiles import made_profile

from mcr_lens import viz

pytestmark = pytest.mark.browser
nbformat = pytest.importorskip("nbformat")
nbconvert = pytest.importorskip("nbconvert")

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"
LOOK = """() => [...document.querySelectorAll('.mcr-heads canvas')].map(canvas => {
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return new Set(data).size;
})"""


@pytest.fixture(scope="module")
def exporter() -> Any:
    """What ``jupyter nbconvert --to html --config notebooks/offline_page.py`` exports with."""
    from traitlets.config.loader import PyFileConfigLoader

    config = PyFileConfigLoader("offline_page.py", str(NOTEBOOKS)).load_config()
    return nbconvert.HTMLExporter(config=config, theme="dark")


def exported(exporter: Any, notebook: Any, folder: Path) -> Path:
    page, _ = exporter.from_notebook_node(notebook)
    path = folder / "notebook.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_committed_notebook_is_a_page_with_its_pictures(
    path: Path, exporter: Any, open_page: Any, tmp_path: Path
) -> None:
    page = open_page(exported(exporter, nbformat.read(path, as_version=4), tmp_path))
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert widths and min(widths) > 200


def test_figures_and_views_of_a_run_are_drawn(
    exporter: Any, open_page: Any, bundled_model: Any, tmp_path: Path
) -> None:
    figure: Any = viz.depth_curves(made_profile([1.5, 20, 25, 3]))
    heads = viz.attention_sinks(bundled_model, "Natalia sold clips to 48 of her friends.", 4)
    shown = [
        {"application/vnd.plotly.v1+json": figure.to_plotly_json()},
        {"application/vnd.plotly.v1+json": figure.to_plotly_json()},
        {"text/html": heads.html()},
        {"text/html": heads.html(script=False)},
        {"application/vnd.jupyter.widget-view+json": {"model_id": "bar"}, "text/plain": "100%"},
    ]
    outputs = [nbformat.v4.new_output("display_data", data) for data in shown]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("all", outputs=outputs)])
    bar = {"state": {"bar": {"model_name": "HTMLModel"}}, "version_major": 2, "version_minor": 0}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": bar}
    path = exported(exporter, notebook, tmp_path)
    page = open_page(path)
    page.wait_for_function("document.querySelectorAll('.mcr-heads canvas').length === 10", timeout=20_000)
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .scatterlayer path').length > 20")
    page.wait_for_timeout(500)
    assert min(page.evaluate(LOOK)) > 10
    assert path.stat().st_size < 7_000_000, "plotly.js is in the page once"
