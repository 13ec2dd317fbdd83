"""The package: every name is a function, and a figure of a saved profile needs no model's library."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

from profiles import made_profile

from mcr_lens import viz

DRAW = """
import sys
import mcr_lens as mcr
profile = mcr.Profile.load(sys.argv[1])
figures = [mcr.viz.depth_curves(profile), mcr.viz.head_map(profile)]
assert all(figure.data for figure in figures)
print(*{"torch", "transformer_lens", "transformers"} & set(sys.modules))
"""


def test_no_module_hides_a_function() -> None:
    modules = [module.name for module in pkgutil.walk_packages(viz.__path__, "mcr_lens.viz.")]
    assert len(modules) > 15
    for name in modules:
        importlib.import_module(name)
    assert "depth_curves" in dir(viz)
    assert all(callable(getattr(viz, name)) for name in dir(viz))


def test_a_saved_profile_is_drawn_without_torch(tmp_path: Path) -> None:
    path = made_profile([1, 200, 4], [0.9, 0.1, 0.8]).save(tmp_path / "run.nc")
    ran = subprocess.run([sys.executable, "-c", DRAW, path], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr
