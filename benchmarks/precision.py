"""What half precision costs: every variable of a profile against the same model in float64.

    python benchmarks/precision.py

The bundled model on 16 word problems. Its weights are stored in float16: in float16, float32 and float64
they are the same numbers, in bfloat16 they are rounded once more. The model runs in each type; the profile
reduces in float32 or better whatever the model's type.

Errors are relative (|found - expected| / |expected|) where a variable has a scale of its own, absolute for
shares, entropies and other variables in a fixed range, "of the write" for a component of a write (over the
norm of that write), and "other place": the share of positions and dimensions that differ. Of the top columns
those that are the same are compared. Median and largest are over prompts, depths or layers, and heads.
"""

import argparse
import platform

import numpy as np
import torch
import transformer_lens  # noqa: F401  (so that its messages come before the table)
import xarray as xr

import mcr_lens as mcr

TYPES = ("float32", "bfloat16", "float16")
RELATIVE = {
    *("sink_norm", "rest_norm", "norm_ratio", "norm_mass_ratio", "dominance", "dominance_bound"),
    *("top_activation", "median_activation", "attention_write_norm", "mlp_write_norm", "sink_value_ratio"),
}


def errors(found: xr.Dataset, expected: xr.Dataset, name: str) -> tuple[str, np.ndarray]:
    """The kind of error of a variable, and its values where both are defined."""
    here, there = found[name].values.astype(np.float64), expected[name].values.astype(np.float64)
    if np.issubdtype(expected[name].dtype, np.integer):
        return "other place", (here != there).astype(np.float64)
    difference = np.abs(here - there)
    if name == "top_column_attention":
        same = (found.top_column_position == expected.top_column_position).values
        difference = difference[same]
    scale, kind = np.ones_like(difference), "absolute"
    if name in RELATIVE:
        scale, kind = np.abs(there), "relative"
    elif name.endswith("_write_along"):
        scale, kind = expected[name.replace("_along", "_norm")].values, "of the write"
    if bool((np.isnan(here) != np.isnan(there)).any()):
        raise SystemExit(f"{name} is undefined in one type and not in the other")
    ratio = difference / scale
    return kind, ratio[np.isfinite(ratio)]


def shown(name: str, kind: str, columns: list[np.ndarray]) -> str:
    """One line: median and largest of every type; of places the share that differs."""
    cells = []
    for values in columns:
        if kind == "other place":
            cells.append(f"{values.mean():>19.1%}")
        else:
            cells.append(f"{np.median(values):9.1e} {values.max():9.1e}")
    return f"{name:32s}{kind:13s}" + "  ".join(cells)


def read(profile: mcr.Profile) -> str:
    """What is concluded from a profile."""
    layers = ", ".join(map(str, profile.emergence_layers()))
    rate = float(profile.sink_rate().mean("prompt").max())
    phases = profile.phases(confidence=None).headline
    return f"{phases}; emergence layers {layers}; largest sink rate {rate:.3f}"


def main() -> None:
    """One profile a type, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=16, help="number of word problems")
    n = parser.parse_args().n
    profiles = {}
    for dtype in ("float64", *TYPES):
        model = mcr.load_model("tiny", dtype=getattr(torch, dtype))
        profiles[dtype] = mcr.profile(
            model, mcr.load_prompts(mcr.prompts.word_problems(n), model), progress=False
        )
    made = profiles["float32"].data.attrs
    versions = ", ".join(f"{package} {version}" for package, version in made["versions"].items())
    print(f"{n} prompts, {made['backend']}, {platform.machine()}, {versions}\n")
    print(" " * 45 + "  ".join(f"{dtype:>19s}" for dtype in TYPES))
    print(f"{'variable':32s}{'error':13s}" + "  ".join(f"{'median':>9s} {'largest':>9s}" for _ in TYPES))
    reference = profiles["float64"].data
    for name in map(str, reference.data_vars):
        found = [errors(profiles[dtype].data, reference, name) for dtype in TYPES]
        print(shown(name, found[0][0], [values for _, values in found]))
    print()
    for dtype, profile in profiles.items():
        print(f"{dtype:9s} {read(profile)}")


if __name__ == "__main__":
    main()
