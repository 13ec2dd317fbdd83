"""The ablation study: what follows when the sink token is kept from becoming massive, by several ways."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from tqdm.auto import tqdm

from mcr_lens.engine import measure, profile
from mcr_lens.errors import InputError, warnings_about
from mcr_lens.experiments.ablation.arms import ARMS, Arm, build_arms, largest_share, writes_of
from mcr_lens.experiments.ablation.clusters import cluster_labels, shared_tokens
from mcr_lens.experiments.ablation.controls import Write, hook_point
from mcr_lens.experiments.ablation.outcomes import outcomes_of
from mcr_lens.experiments.ablation.study import AblationStudy
from mcr_lens.hooks import AttentionObserver, ResidualObserver, observe
from mcr_lens.hooks.lenses.logit import LogitLens
from mcr_lens.hooks.observers.base import depth_hook_name
from mcr_lens.models import Model, model_facts, require
from mcr_lens.prompts import PromptsLike, as_prompts
from mcr_lens.results import Profile
from mcr_lens.validate import check_count, check_indices, check_positive, did_you_mean, is_number

__all__ = ["ablation_study"]

_VARIABLES = (
    "norm_ratio",
    "matrix_entropy",
    "entropy_without_sink",
    "entropy_bound",
    "normalized_entropy",
    "normalized_entropy_without_sink",
    "anisotropy",
    "anisotropy_bound",
    "dominance",
    "dominance_bound",
    "sink_score",
    "lens_loss",
)


def ablation_study(
    model: Model,
    prompts: PromptsLike,
    layers: Literal["emergence"] | int | Iterable[int] = "emergence",
    doses: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    arms: Sequence[str] = ARMS,
    *,
    sink_position: int = 0,
    max_ratio: float = 1.0,
    seed: int = 0,
    cluster: str | Sequence[object] | None = None,
    batch_size: int | Literal["auto"] = "auto",
    chunk: int | Literal["auto"] | None = None,
    progress: bool = True,
) -> AblationStudy:
    """Take away what makes the sink token massive, dose by dose, and see what goes with it.

    Treatments: the writes that make it massive (each layer's, and all together), its norm clamped behind
    these layers, its massive dimensions zeroed there, its direction replaced there with the norm kept, and
    the converse, attention to it blocked in all later layers. Controls of equal norm: a random vector as long
    as the write subtracted at the sink token (20 draws, at the largest dose only), and the sink token's own
    write subtracted at a random other token of each prompt.

    Args:
        layers: ``"emergence"``: the layers whose write makes the token massive, by the baseline profile
            (where there are none, the layer that writes the largest share of its state, and the study says
            how little there is to remove); or one or several of your own. Of a layer's two writes the larger
            (along the state it leaves) is removed.
        doses: how much is taken, in [0, 1]; 0 is the baseline and always there.
        arms: some of ``"write"``, ``"clamp"``, ``"dimensions"``, ``"direction"``, ``"block"``, ``"random
            direction"`` and ``"other token"``. All by default, less what the model cannot have; an arm that
            is named and cannot be had (no layer left for it, patterns that cannot be edited) is refused.
            Without the last two, controls of equal norm, nothing is called supported.
        max_ratio: norm that the clamp leaves, over the mean of the other tokens.
        seed: of the random directions and tokens.
        cluster: a label for each prompt, or the name of a coordinate of the prompts: prompts of one template
            or document are near-copies. See ``AblationStudy.by_cluster``.
        chunk: as in ``profile``; where it is given, also as ``"auto"``, the clamp compares with the
            baseline's mean ``rest_norm``, whether or not the prompts came in chunks.

    Returns:
        Every dose of every arm, by prompt and depth, with ``.effects()``, ``.claims()`` and ``.save(path)``.

    Raises:
        InputError: for doses or arms that do not exist; as ``profile``.
    """
    for check in ("residual_sum", "pattern_rows", "final_readout"):
        require(model, check, "ablation_study")
    numbers = list(doses) if isinstance(doses, Iterable) else []
    if not all(is_number(dose) and 0 <= dose <= 1 for dose in numbers) or not any(numbers):
        raise InputError(f"doses {doses}: use a list of numbers from 0 to 1, at least one above 0")
    doses = sorted({float(dose) for dose in numbers if dose > 0})
    unknown = [name for name in arms if name not in ARMS]
    if unknown or not arms:
        near = did_you_mean(str(unknown[0]), ARMS) if unknown else ""
        raise InputError(f"arms {list(unknown or arms)}: use some of {', '.join(ARMS)}{near}")
    if set(arms) == {"random direction"}:
        raise InputError(f"arms {list(arms)}: name a treatment, too")
    by_name = tuple(arms) != ARMS
    if by_name and "block" in arms:
        require(model, "pattern_edits", "ablation_study with the arm 'block'")
    if not isinstance(layers, str):
        layers = check_indices("layers", layers, model_facts(model).n_layers)
    elif layers != "emergence":
        raise InputError(f"layers {layers!r}: use 'emergence', or the numbers of some layers")
    check_positive("max_ratio", max_ratio, 1)
    check_count("seed", seed, 0)
    prompts = as_prompts(prompts, model)
    if cluster is not None and not isinstance(cluster, str):
        cluster_labels(cluster, xr.Dataset(coords={"prompt": range(len(prompts.tokens))}))
    settings: dict[str, Any] = {"batch_size": batch_size, "chunk": chunk, "progress": False}
    bar = tqdm(desc="ablation", unit="run", disable=None if progress else True)
    with bar:
        base = profile(model, prompts, observers=[LogitLens(model)], sink_position=sink_position, **settings)
        bar.update()
        writes = writes_of(base, layers)
        rest_norm = None if chunk is None else base["rest_norm"].mean("prompt").values.tolist()
        at = depth_hook_name(max(writes) + 1, base.data.sizes["layer"])
        points = [at, *(hook_point(layer, write) for layer, write in writes.items())]
        observers = [_state_at(sink_position, point) for point in points]
        with warnings.catch_warnings():  # the baseline has said what it had to
            warnings.simplefilter("ignore", RuntimeWarning)
            own = measure(model, prompts, observers, **settings)
        state, *vectors = (_states(own, point) for point in points)
        tensors = {layer: torch.from_numpy(v) for layer, v in zip(writes, vectors, strict=True)}
        conditions = build_arms(
            model, base, writes, tensors, arms, max_ratio, rest_norm, seed, refuse=by_name
        )
        n_runs = sum(len(arm.draws) or len(doses) for arm in conditions)
        bar.reset(total=2 + n_runs)
        bar.update(2)
        record = base.data.attrs | _record(base, conditions, writes, seed, layers == "emergence")
        record["shared_tokens"] = shared_tokens(prompts.tokens)
        runs, draws, changes = {}, [], {}
        for arm in conditions:
            bar.set_postfix_str(arm.name)
            at_doses, moves = [base.data[list(_VARIABLES)]], []
            for hooks_of, dose in [(draw, doses[-1]) for draw in arm.draws] or [
                (arm.hooks, x) for x in doses
            ]:
                observers = [kind(model, sink_position) for kind in (ResidualObserver, AttentionObserver)]
                observers += [LogitLens(model), _state_at(sink_position, at)]
                with warnings_about(f"arm {arm.name}, dose {dose:g}"):
                    hooks = hooks_of(dose=dose)
                    measured = measure(model, prompts, observers, interventions=hooks, **settings)
                if arm.draws:
                    draws.append(outcomes_of(measured, record).reset_coords(drop=True))
                else:
                    at_doses.append(measured[list(_VARIABLES)])
                moves.append(_change(state, _states(measured, at)))
                bar.update()
            norm, cosine = np.mean(moves if arm.draws else moves[-1:], axis=0).tolist()
            changes[arm.name] = {"norm": norm, "cosine": cosine}
            if not arm.draws:
                runs[arm.name] = _along(at_doses, "dose", [0.0, *doses])
    data = _along(list(runs.values()), "arm", list(runs))
    data = data.assign_coords(kind=("arm", [arm.kind for arm in conditions if arm.name in runs]))
    if draws:
        data["random_direction"] = xr.concat(draws, "draw").to_array("outcome")
    data.attrs = record | {"changes": changes}
    study = AblationStudy(data)
    return study if cluster is None else study.by_cluster(cluster)


def _state_at(position: int, point: str) -> Any:
    """Reads the state at a position of every prompt, at a hook point."""
    name = f"state at {point}"
    return observe(lambda block, rows: {name: rows.at(block, position)}, at=point, dims=("dimension",))


def _states(data: xr.Dataset, point: str) -> np.ndarray:
    states = data[f"state at {point}"].sel(layer=int(point.split(".")[1]))
    return states.transpose("prompt", "dimension").values


def _change(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Norm after over norm before, and the cosine between the two; medians over prompts."""
    norms = [np.linalg.norm(states.astype(np.float64), axis=1) for states in (before, after)]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = norms[1] / norms[0]
        cosine = (before.astype(np.float64) * after).sum(1) / (norms[0] * norms[1])
    known = ~np.isnan(ratio)
    # A state of length 0 has no direction left.
    cosine = np.where(np.isnan(cosine) & known, 0.0, cosine)
    return (
        (float(np.median(ratio[known])), float(np.median(cosine[known]))) if known.any() else (np.nan, np.nan)
    )


def _along(parts: Sequence[xr.Dataset], dim: str, labels: Sequence[object]) -> xr.Dataset:
    return xr.concat(parts, pd.Index(list(labels), name=dim), combine_attrs="drop")


def _record(
    base: Profile, arms: Sequence[Arm], writes: Mapping[int, Write], seed: int, by_emergence: bool
) -> dict[str, Any]:
    """How the study was made, and where the baseline is compressed."""
    phases = base.phases(confidence=None)
    first, last = phases.compress or (phases.peak_depth, phases.peak_depth)
    record: dict[str, Any] = {
        "result": "ablation study",
        "writes": {str(layer): write for layer, write in writes.items()},
        "arms": {arm.name: arm.what for arm in arms},
        "equal_norm_controls": [arm.name for arm in arms if arm.kind == "control"],
        # The outcomes are read over these depths.
        "compressed_depths": list(range(first, last + 1)),
        "has_compression_phase": phases.compress is not None,
        "seed": seed,
    }
    if by_emergence and not base.emergence_layers():
        layer, share = largest_share(base)
        kappa = phases.compression[phases.peak_depth]
        record["below_gate"] = (
            f"no layer makes the sink token massive: kappa is at most {kappa:.2f} (depth "
            f"{phases.peak_depth}), so there is little to remove; the arms are at layer {layer}, "
            f"whose writes are the largest share ({share:.0%}) of the state behind it"
        )
    return record
