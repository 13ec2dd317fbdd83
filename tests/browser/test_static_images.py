"""Every figure is a static image with one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from profiles import made_profile

from mcr_lens import viz

FORMATS = {"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF"}


@pytest.mark.parametrize("ending", FORMATS)
def test_a_figure_is_written_as_an_image_with_one_call(chromium: Any, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"curves.{ending}"
    viz.depth_curves(made_profile([1.5, 20, 25, 3])).write_image(path, width=640, height=480)
    assert path.read_bytes().startswith(FORMATS[ending])
    assert path.stat().st_size > 5_000
