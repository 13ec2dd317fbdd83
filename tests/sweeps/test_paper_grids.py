"""The grids of the paper: what they hold, and that each runs on the bundled model without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcr_lens.sweeps import Grid, cells, read_grid, sweep

FOLDER = Path(__file__).parent.parent.parent / "benchmarks" / "paper"
# Cells of each; the steps of Figure 2 are 19.
CELLS = {"emergence": 6, "removal": 3 * 10, "training": 2 * 19, "inputs": 3 * 4, "large": 3}


def grid(name: str) -> Grid:
    return read_grid(FOLDER / f"{name}.toml")


def test_these_are_all_of_them() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_a_grid_has_the_cells_it_should(name: str) -> None:
    assert len(cells(grid(name))) == CELLS[name]


def test_the_six_models_of_the_first_figure() -> None:
    assert [model.source for model in grid("emergence").models] == [
        "EleutherAI/pythia-410m",
        "EleutherAI/pythia-6.9b",
        "meta-llama/Meta-Llama-3-8B",
        "Qwen/Qwen2-7B",
        "google/gemma-7b",
        "bigscience/bloom-1b7",
    ]


def test_the_steps_are_those_that_pythia_has() -> None:
    there = {0, *(2**i for i in range(10)), *range(1000, 144000, 1000)}
    for model in grid("training").models:
        assert {int((revision or "").removeprefix("step")) for revision in model.revisions or ()} <= there


def test_the_largest_models_are_spread_over_devices() -> None:
    assert all(model.device_map == "auto" for model in grid("large").models)


@pytest.mark.parametrize("name", CELLS)
def test_a_grid_runs_on_the_bundled_model(name: str, tmp_path: Path) -> None:
    models = ["tiny@step0", "tiny@step512"] if name == "training" else ["tiny"]
    tried = grid(name).with_models(models).with_prompts("made-up")
    table = sweep(tried, tmp_path, progress=False)
    assert set(table.state) == {"done"}, table.error.tolist()
    assert len(table) == {"removal": 10, "training": 2}.get(name, 1)
