"""A small grid of the bundled model."""

from __future__ import annotations

from pathlib import Path

import pytest

GRID = """
arms = ["baseline", {intervention = "ablate_mlp_write", layers = "emergence", dose = [0.5, 1.0]}]

[[models]]
source = "tiny"
revisions = ["step0", "step20000"]

[[models]]
source = "tiny"
name = "final"
batch_size = 2

[[prompts]]
source = "made-up"
n = 4
"""


@pytest.fixture
def grid_file(tmp_path: Path) -> Path:
    """Nine cells; two of them fail: at step 0 nothing is massive yet."""
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path
