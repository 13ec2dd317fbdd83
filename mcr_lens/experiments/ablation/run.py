"""The ablation study: what follows when the sink token is kept from becoming massive, by several ways."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import pandas as pd
import xarray as xr
from tqdm.auto import tqdm

from mcr_lens.engine import measure, profile
from mcr_lens.errors import InputError, warnings_about
from mcr_lens.experiments.ablation.arms import ARMS, Arm, Write, build_arms, writes_of
from mcr_lens.experiments.ablation.study import AblationStudy
from mcr_lens.hooks import AttentionObserver, ResidualObserver
from mcr_lens.hooks.lenses.logit import LogitLens
from mcr_lens.models import Model, model_facts, require
from mcr_lens.prompts import PromptsLike, as_prompts
from mcr_lens.results import Profile
from mcr_lens.validate import check_count, check_indices, check_positive, did_you_mean, is_number

__all__ = ["ablation_study"]

_VARIABLES = (
    "norm_ratio",
    "matrix_entropy",
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
    batch_size: int | Literal["auto"] = "auto",
    chunk: int | Literal["auto"] | None = None,
    progress: bool = True,
) -> AblationStudy:
    """Take away what makes the sink token massive, dose by dose, and see what goes with it.

    Treatments: the writes that make it massive (each layer's, and all together), its norm clamped behind
    these layers, its massive dimensions zeroed there, and the converse, attention to it blocked in all
    later layers. Controls: the same writes removed at a random other token of each prompt; the same kind
    of write of random other layers (of those before the last compressed depth) removed at the sink token.

    Args:
        layers: ``"emergence"``: the layers whose write makes the token massive, by the baseline profile; or
            one or several of your own. Of a layer's two writes the larger (along the state it leaves) is
            removed.
        doses: how much is taken, in [0, 1]; 0 is the baseline and always there.
        arms: some of ``"write"``, ``"clamp"``, ``"dimensions"``, ``"block"``, ``"other token"`` and
            ``"other layer"``. All by default, less what the model cannot have; an arm that is named and
            cannot be had (no layer left for it, patterns that cannot be edited) is refused.
        max_ratio: norm that the clamp leaves, over the mean of the other tokens.
        seed: of the random tokens and layers.
        chunk: as in ``profile``; where it is given, also as ``"auto"``, the clamp compares with the
            baseline's mean ``rest_norm``, whether or not the prompts came in chunks.

    Returns:
        Every dose of every arm, by prompt and depth, with ``.effects()``, ``.claims()`` and ``.save(path)``.

    Raises:
        InputError: when no layer makes the token massive and none is named; for doses or arms that do not
            exist; as ``profile``.
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
    settings = {"batch_size": batch_size, "chunk": chunk, "progress": False}
    bar = tqdm(desc="ablation", unit="run", disable=None if progress else True)
    with bar:
        base = profile(model, prompts, observers=[LogitLens(model)], sink_position=sink_position, **settings)
        bar.update()
        writes = writes_of(base, layers)
        rest_norm = None if chunk is None else base["rest_norm"].mean("prompt").values.tolist()
        conditions = build_arms(model, base, writes, arms, max_ratio, rest_norm, seed, refuse=by_name)
        bar.reset(total=1 + len(conditions) * len(doses))
        bar.update()
        runs = []
        for arm in conditions:
            bar.set_postfix_str(arm.name)
            at_doses = [base.data[list(_VARIABLES)]]
            for dose in doses:
                observers = [kind(model, sink_position) for kind in (ResidualObserver, AttentionObserver)]
                observers += [LogitLens(model)]
                with warnings_about(f"arm {arm.name}, dose {dose:g}"):
                    hooks = arm.hooks(dose=dose)
                    measured = measure(model, prompts, observers, interventions=hooks, **settings)
                at_doses.append(measured[list(_VARIABLES)])
                bar.update()
            runs.append(_along(at_doses, "dose", [0.0, *doses]))
    data = _along(runs, "arm", [arm.name for arm in conditions])
    data = data.assign_coords(kind=("arm", [arm.kind for arm in conditions]))
    data.attrs = base.data.attrs | _record(base, conditions, writes, seed)
    return AblationStudy(data)


def _along(parts: Sequence[xr.Dataset], dim: str, labels: Sequence[object]) -> xr.Dataset:
    return xr.concat(parts, pd.Index(list(labels), name=dim), combine_attrs="drop")


def _record(base: Profile, arms: Sequence[Arm], writes: Mapping[int, Write], seed: int) -> dict[str, object]:
    """How the study was made, and where the baseline has its valley."""
    phases = base.phases(confidence=None)
    first, last = phases.compress or (phases.peak_depth, phases.peak_depth)
    return {
        "result": "ablation study",
        "writes": {str(layer): write for layer, write in writes.items()},
        "arms": {arm.name: arm.what for arm in arms},
        "ends_norm": [arm.name for arm in arms if arm.ends_norm],
        # The outcomes are read over these depths; the state before emergence is what they are held against,
        # also where layers of one's own were named.
        "compressed_depths": list(range(first, last + 1)),
        "before_depth": min(base.emergence_layers() or writes),
        "has_compression_phase": phases.compress is not None,
        "seed": seed,
    }
