"""Activation patching: swap one activation at a time between two runs, and see what the answer follows."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
import xarray as xr
from tqdm.auto import tqdm
from transformer_lens.utilities.components_utils import get_act_name

from mcr_lens.errors import InputError
from mcr_lens.experiments.patching.logit_metrics import LogitMetric, logit_difference
from mcr_lens.experiments.patching.pair_runs import PairRuns, Side, metric_name
from mcr_lens.experiments.patching.prompt_pairs import PromptPairs
from mcr_lens.experiments.patching.result import PatchingResult
from mcr_lens.hooks.interventions import check_hooks, described, patch_activation
from mcr_lens.hooks.record import is_pattern
from mcr_lens.models import Hook, Model, model_facts, require
from mcr_lens.models.backend import evaluation_mode
from mcr_lens.recording import record
from mcr_lens.validate import check_indices

__all__ = ["activation_patching"]

_AXES = ("layer", "position", "head")
# Which run activations are taken from, and which they are put into.
_DIRECTIONS: dict[str, tuple[Side, Side]] = {"denoise": ("clean", "corrupt"), "noise": ("corrupt", "clean")}


def activation_patching(
    model: Model,
    pairs: PromptPairs,
    hook: str = "resid_pre",
    over: Sequence[str] = ("layer", "position"),
    *,
    positions: int | Iterable[int] | None = None,
    layers: int | Iterable[int] | None = None,
    metric: LogitMetric = logit_difference,
    direction: Literal["denoise", "noise"] = "denoise",
    clean_interventions: Sequence[Hook] = (),
    corrupt_interventions: Sequence[Hook] = (),
    batch_size: int | Literal["auto"] = "auto",
    progress: bool = True,
) -> PatchingResult:
    """Patch one activation at a time from one run of each pair into the other.

    Denoising runs the corrupt prompt and puts the clean run's activation in: what *suffices* to bring the
    clean answer back? Noising runs the clean prompt and puts the corrupt run's in: what is *needed* for it?

    Args:
        pairs: clean and corrupt prompts, with answers where the metric needs them.
        hook: a short name of TransformerLens (``"resid_pre"``, ``"resid_mid"`` and ``"resid_post"``,
            ``"attn_out"``, ``"mlp_out"``, ``"z"``, ``"q"``, ``"k"``, ``"v"``, ``"pattern"``), or a template
            such as ``"blocks.{layer}.hook_resid_pre"``.
        over: what is swept: ``"layer"``, then ``"position"``, ``"head"``, or both. What is not swept is
            patched together. The position of a pattern is its query's.
        positions: of the prompt, negative from its last real token; ``None`` for all. ``positions=[0]``
            patches the sink token alone.
        layers: blocks, counted from 0; ``None`` for all.
        metric: ``logit_difference``, ``kl_divergence``, ``answer_loss``, or any function
            ``(logits [batch, pos, d_vocab], pairs) -> [batch]``; see ``mcr_lens.experiments.patching``.
            Logits at padding are NaN: a metric that reads them, such as one of ``logits[:, -1]`` on pairs of
            several lengths, is NaN there, which a warning tells; ``logits_at`` reads the last real token.
        direction: ``"denoise"`` or ``"noise"``.
        clean_interventions: hooks that edit the clean run, patched or not.
        corrupt_interventions: hooks that edit the corrupt run. The two runs may differ in these alone: pairs
            of equal prompts, one side with ``ablate_mlp_write``.
        batch_size: pairs a batch; ``"auto"`` cuts where padding and batches cost least.
        progress: show a progress bar on a terminal or in a notebook.

    Returns:
        ``.data``: ``patched`` (prompt, layer, ...), the metric of the patched runs; ``clean`` and ``corrupt``
        (prompt), of those left alone. Denoising adds ``recovered = (patched - corrupt) / (clean - corrupt)``,
        noising ``lost = (clean - patched) / (clean - corrupt)``: in both, 0 means that the patch did nothing
        and 1 that it did as much as the whole other run. NaN where the two runs do not differ, where a
        shorter pair has no such position, and where a metric or a state is Inf or NaN, which a warning
        tells. Pairs whose runs hardly differ give huge shares: choose pairs that do, or read ``patched``.
        Along ``position``: the ids ``token`` and ``clean_token`` of the corrupt and the clean prompt (-1
        beyond the end) and, where the model has a tokenizer, ``text`` and ``clean_text``.

    Raises:
        InputError: for hooks, layers, positions or prompts that the model does not have, for heads of an
            activation without any, for a metric that gives anything but a number a prompt.

    ``transformer_lens.patching`` makes the same sweep with one number for a whole batch of prompts of equal
    length, from a cache of every activation; this gives the same numbers a prompt, for prompts of any length,
    with the activations of one hook point in memory. The method: Vig et al. 2020, Meng et al. 2022; the two
    directions: Heimersheim and Nanda 2024.

    Example:
        >>> import mcr_lens as mcr
        >>> from mcr_lens.experiments import PromptPairs, activation_patching
        >>> model = mcr.load_model("tiny")
        >>> pairs = PromptPairs.from_texts(["Ann has 5"], ["Ann has 7"], model, ["5"], ["7"])
        >>> result = activation_patching(model, pairs, layers=[0, 1], progress=False)
        >>> result["patched"].dims
        ('prompt', 'layer', 'position')
        >>> bool(result["recovered"].sel(layer=0)[0, -1] == 1)  # the number is all they differ in
        True
    """
    if direction not in _DIRECTIONS:
        raise InputError(f"direction {direction!r}: use 'denoise' (clean into corrupt) or 'noise'")
    source, base = _DIRECTIONS[direction]
    interventions: dict[Side, Sequence[Hook]] = {
        "clean": list(clean_interventions),
        "corrupt": list(corrupt_interventions),
    }
    runs = PairRuns(model, pairs, metric, batch_size, interventions)
    pairs = runs.pairs
    swept = tuple(over)
    if isinstance(over, str) or swept[:1] != ("layer",) or sorted(swept) != sorted({*swept} & {*_AXES}):
        raise InputError(f"over={over!r}: use ('layer', 'position'), ('layer', 'head'), or all three")
    n_layers, longest = model_facts(model).n_layers, max(pairs.lengths)
    blocks = check_indices("layers", range(n_layers) if layers is None else layers, n_layers)
    at = None if positions is None else check_indices("positions", positions, longest, from_end=True)
    names = _hook_names(model, hook, blocks)
    heads = _heads(model, pairs, names)
    if "head" in swept and not all(heads.values()):
        raise InputError(f"hook {hook!r} has no heads: sweep over ('layer', 'position')")
    labels = {"layer": blocks, "position": at or range(longest), "head": range(max(heads.values()))}
    coords = {"prompt": range(len(pairs)), **{axis: list(labels[axis]) for axis in swept}}
    patched = xr.DataArray(np.nan, coords, list(coords))
    n_patches = patched[0].size
    bar = tqdm(total=n_patches, unit="patch", desc="patching", disable=None if progress else True)
    with bar, evaluation_mode(model):
        data = xr.Dataset({side: ("prompt", runs.values(side)) for side in ("clean", "corrupt")})
        for layer, name in names.items():
            activations = record(
                model,
                getattr(pairs, source),
                [name],
                interventions=interventions[source],
                batch_size=batch_size,
            )
            for labels_of_patch in product(*(labels[axis] for axis in swept[1:])):
                place = dict(zip(swept[1:], labels_of_patch, strict=True))
                bar.update()
                if place.get("head", 0) >= max(heads[layer], 1):  # layers of one model may differ
                    continue
                rows = (place["position"],) if "position" in place else at
                patch = patch_activation(name, activations, rows, place.get("head"))
                patched.loc[{"layer": layer, **place}] = runs.values(base, patch, rows)
    runs.warn_broken()
    whole = (data.clean - data.corrupt).where(data.clean != data.corrupt)
    done = patched - data.corrupt if direction == "denoise" else data.clean - patched
    share = "recovered" if direction == "denoise" else "lost"
    data = data.assign({"patched": patched, share: (done / whole).transpose(*patched.dims)})
    data = data.assign_coords(
        n_tokens=("prompt", list(pairs.lengths)),
        first_token=("prompt", list(pairs.corrupt.first_tokens)),
        **(_tokens(model, pairs, labels["position"]) if "position" in swept else {}),
    )
    data.attrs = model_facts(model).attributes() | {
        "prompts": pairs.attributes(),
        "hook": hook,
        "over": list(swept),
        "positions": "all" if at is None else list(at),
        "metric": metric_name(metric),
        "direction": direction,
        **{f"{side}_interventions": described(hooks) for side, hooks in interventions.items()},
    }
    return PatchingResult(data)


def _hook_names(model: Model, hook: str, layers: Sequence[int]) -> dict[int, str]:
    """The hook point of each layer."""
    template = hook if "{layer}" in hook or "." in hook else None
    names = {
        layer: template.replace("{layer}", str(layer))
        if template
        else get_act_name(hook.removeprefix("hook_"), layer)
        for layer in layers
    }
    check_hooks(model, [(name, lambda activation, hook: None) for name in names.values()])
    if len(set(names.values())) < len(names):
        raise InputError(
            f"hook {hook!r} names its layer: give the name without it, or a template with "
            "{layer}, and choose with layers="
        )
    if is_pattern(names[layers[0]]):
        require(model, "pattern_edits", f"activation_patching of {hook!r}")
    return names


def _heads(model: Model, pairs: PromptPairs, names: Mapping[int, str]) -> dict[int, int]:
    """Number of heads at each layer's hook point, 0 where it has none: one prompt shows it."""
    activations = record(model, pairs.clean[:1], list(names.values()))
    shapes = {layer: activations[name].shape for layer, name in names.items()}
    axis = 1 if is_pattern(next(iter(names.values()))) else 2
    return {layer: shape[axis] if len(shape) == 4 else 0 for layer, shape in shapes.items()}


def _tokens(model: Model, pairs: PromptPairs, positions: Sequence[int]) -> dict[str, Any]:
    """Token ids of both prompts by position, and how they read."""
    coords: dict[str, Any] = {}
    dims, tokenizer = ("prompt", "position"), getattr(model, "tokenizer", None)
    for prefix, prompts in (("", pairs.corrupt), ("clean_", pairs.clean)):
        ids = np.array(
            [[row[at] if -len(row) <= at < len(row) else -1 for at in positions] for row in prompts.tokens]
        )
        coords[f"{prefix}token"] = (dims, ids)
        if tokenizer is not None:
            texts = {-1: ""} | {int(i): tokenizer.decode([int(i)]) for i in np.unique(ids) if i >= 0}
            coords[f"{prefix}text"] = (dims, np.vectorize(texts.get, otypes=[object])(ids))
    return coords
