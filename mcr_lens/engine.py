"""The one engine: batches x chunks x hooks. ``profile`` is ``measure`` with the standard observers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import xarray as xr
from tqdm.auto import tqdm

from mcr_lens.doubts import doubts, warn_of_doubts
from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext, running
from mcr_lens.hooks.interventions import check_hooks, described, keep_shapes, warn_of_chunks
from mcr_lens.hooks.observers.attention import AttentionObserver
from mcr_lens.hooks.observers.base import Observer
from mcr_lens.hooks.observers.nonfinite import NonFinite
from mcr_lens.hooks.observers.residual import ResidualObserver, WriteObserver
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.metrics.rows import MAX_SINKS, sink_set
from mcr_lens.models import Hook, Model, ModelFacts, batch_cost, model_facts
from mcr_lens.models.backend import evaluation_mode, new_cache, run
from mcr_lens.models.info import one_measurement, require_cache
from mcr_lens.models.user_hooks import attached_hooks
from mcr_lens.not_finite import warn_not_finite, without_broken
from mcr_lens.prompts import Batch, Prompts, PromptsLike, as_prompts
from mcr_lens.results import Profile
from mcr_lens.validate import is_whole

__all__ = ["check_prompts", "measure", "profile"]


def profile(
    model: Model,
    prompts: PromptsLike,
    *,
    interventions: Sequence[Hook] = (),
    observers: Sequence[Observer] = (),
    batch_size: int | Literal["auto"] = "auto",
    chunk: int | Literal["auto"] | None = None,
    estimator: Estimator = Estimator(),  # noqa: B008  (frozen)
    sink_position: int | Sequence[int] | Literal["auto"] = 0,
    progress: bool = True,
) -> Profile:
    """Every quantity of every depth, layer and head, in one forward pass a batch.

    Args:
        model: from ``load_model``.
        prompts: ``Prompts`` (see ``load_prompts``), or a text, texts, or token ids of one prompt or several.
        interventions: a list of TransformerLens hooks that edit; they run before the observers.
        observers: more of them, such as a ``LogitLens``, to share the pass; their variables join the profile.
        batch_size: prompts a batch; ``"auto"`` cuts where padding and batches cost least.
        chunk: feed prompts in chunks of this many tokens through the KV cache: long contexts without
            a pattern of prompt x prompt. ``"auto"``: whole prompts where they fit into the memory that is
            free, else chunks that do (``models.auto_chunk``).
        estimator: how the matrix entropy is estimated.
        sink_position: the token that is watched, or a list of up to four, the primary one first: then the
            entropies without the sink, kappa, the sinks' mass and the attention to them speak of them all,
            while norms, bounds and writes are those of the primary token. ``"auto"``: the massive tokens of
            each prompt, the largest first (see ``hooks.MassiveTokens``); prompts whose set is not the first
            token alone are measured once more. Where none is massive, kappa is 0 and the first one watched.
        progress: show a progress bar on a terminal or in a notebook.

    Raises:
        InputError: for prompts the model cannot take, hook names it does not have, or an estimator
            that needs the whole prompt together with ``chunk``.
    """
    interventions, prompts = list(interventions), as_prompts(prompts, model)
    sinks = (0,) if sink_position == "auto" else sink_set(sink_position)
    if max(sinks) >= min(prompts.lengths):
        raise InputError(
            f"sink_position {max(sinks)} must lie in 0..{min(prompts.lengths) - 1}, "
            "inside the shortest prompt"
        )
    if estimator.needs_whole_prompt and chunk == "auto":
        chunk = None
    if chunk is not None and estimator.needs_whole_prompt:
        raise InputError(f"{estimator} needs whole prompts: leave out chunk=, or do not centre")
    options: dict[str, Any] = {"batch_size": batch_size, "chunk": chunk, "progress": progress}
    options["interventions"] = interventions
    with one_measurement(model):
        standard = _standard(model, sinks, estimator)
        if sink_position == "auto":
            from mcr_lens.hooks.observers.massive_tokens import MassiveTokens  # few calls need them
            from mcr_lens.phases.sink_sets import replace_prompts, without_sinks

            massive = MassiveTokens(model)
            data = measure(model, prompts, [*standard, massive, *observers], **options)
            sets = massive.sets()
            for own in sorted({*sets} - {sinks, ()}):
                which = [prompt for prompt, positions in enumerate(sets) if positions == own]
                again = _measured(model, prompts, _standard(model, own, estimator), **options, only=which)
                replace_prompts(data, again)
            without_sinks(data, [prompt for prompt, positions in enumerate(sets) if not positions])
        else:
            data = measure(model, prompts, [*standard, *observers], **options)
            sets = [sinks] * len(prompts)
    # -1 where a prompt has fewer.
    rows = [[*positions, *[-1] * (MAX_SINKS - len(positions))] for positions in sets]
    data = data.assign_coords(sink_positions=(("prompt", "rank"), rows))
    data.attrs |= {
        "estimator": estimator.as_dict(),
        "sink_position": "auto" if sink_position == "auto" else list(sinks) if sinks[1:] else sinks[0],
        "interventions": described(interventions),
    }
    return Profile(data)


def _standard(model: Model, sinks: tuple[int, ...], estimator: Estimator) -> list[Observer]:
    """The observers of a profile; what the self-check found broken is left out, the failed check recorded."""
    standard: list[Observer] = [ResidualObserver(model, sinks, estimator)]
    failed = model_facts(model).failed_checks
    if "residual_sum" not in failed:
        standard.append(WriteObserver(model, sinks[0]))
    if "pattern_rows" not in failed:
        standard.append(AttentionObserver(model, sinks))
    return standard


def measure(
    model: Model,
    prompts: PromptsLike,
    observers: Sequence[Observer],
    *,
    interventions: Sequence[Hook] = (),
    batch_size: int | Literal["auto"] = "auto",
    chunk: int | Literal["auto"] | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Run prompts through a model under hooks and collect what the observers read.

    Interventions come first in the list of hooks, observers after them, in the order given; so
    observers see what the interventions left. The model's weights, hooks and mode are as they were
    afterwards, whatever happens. What an observer of this package read before is forgotten.

    ``chunk="auto"`` counts the memory of a profile; what observers of your own hold is not in it.

    Returns:
        The observers' results merged, with ``n_tokens`` and ``first_token`` of every prompt, and model and
        prompts described in ``attrs``. A prompt whose residual stream holds Inf or NaN is NaN (-1 for
        integers) from that depth on, and in the layers that read it; ``not_finite_depth`` of the prompt says
        where that begins (-1: nowhere), and a ``RuntimeWarning`` says how many there are.

    Raises:
        InputError: for prompts, hooks or chunks that do not fit the model; when two observers have a
            variable of the same name, or one has ``n_tokens`` or ``first_token``.
    """
    prompts = as_prompts(prompts, model)
    with one_measurement(model) as facts:
        data = _measured(model, prompts, observers, interventions, batch_size, chunk, progress)
    warn_not_finite(data, facts.dtype)
    if facts.unchecked_lengths:
        warn_of_doubts(doubts({"unchecked_lengths": facts.unchecked_lengths}, max(prompts.lengths)))
    data.attrs = facts.attributes() | {
        "prompts": prompts.attributes(),
        "attached_hooks": attached_hooks(model),
    }
    return data


def _measured(
    model: Model,
    prompts: Prompts,
    observers: Sequence[Observer],
    interventions: Sequence[Hook],
    batch_size: int | Literal["auto"],
    chunk: int | Literal["auto"] | None,
    progress: bool,
    only: Sequence[int] | None = None,
) -> xr.Dataset:
    """What ``measure`` returns, without attributes; of some of the prompts, under their own numbers."""
    interventions = list(interventions)
    chosen = range(len(prompts)) if only is None else only
    part = prompts if only is None else replace(prompts, tokens=tuple(prompts.tokens[i] for i in only))
    with one_measurement(model) as facts:
        check_prompts(model, prompts, batch_size, chunk)
        if any(isinstance(observer, AttentionObserver) for observer in observers):
            _refuse_attention_in_chunks(facts, max(prompts.lengths))
        for observer in observers:
            if begin := getattr(observer, "begin", None):
                begin(model)
        reading = [hook for observer in observers for hook in observer.hooks()]
        check_hooks(model, [*interventions, *reading], min(prompts.lengths))
        nonfinite = NonFinite(model)
        hooks = [*nonfinite.around(keep_shapes(interventions)), *reading]
        blocks_only = all(isinstance(name, str) and name.startswith("blocks.") for name, _ in hooks)
        size = None if batch_size == "auto" else batch_size
        if chunk == "auto":
            from mcr_lens.models.memory import auto_chunk  # few calls need it

            chunk = auto_chunk(model, prompts.lengths, batch_size)
        if chunk is not None and chunk < max(prompts.lengths):
            warn_of_chunks(interventions)
        what = "measure" if chunk is None else f"measure, {chunk} tokens at once"
        bar = tqdm(total=len(part), unit="prompt", desc=what, disable=None if progress else True)
        with bar, evaluation_mode(model):
            for batch in part.batches(size, batch_cost(model)):
                batch = batch._replace(prompts=tuple(chosen[i] for i in batch.prompts))
                _run_batch(model, batch, hooks, chunk, blocks_only)
                bar.update(len(batch.prompts))
    of_prompts = xr.Dataset(
        coords={
            "prompt": list(chosen),
            "n_tokens": ("prompt", list(part.lengths)),
            "first_token": ("prompt", list(part.first_tokens)),
        }
    )
    data = _merged([of_prompts, nonfinite.result(), *(observer.result() for observer in observers)])
    return without_broken(data)


def _merged(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Results as one, each variable from one of them alone."""
    names = [str(name) for part in parts for name in {*part.data_vars} | {*part.coords} - {*part.dims}]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"an observer returns a variable {twice[0]!r}: rename it, others have it")
    return xr.merge(parts, join="outer")


def _refuse_attention_in_chunks(facts: ModelFacts, longest: int) -> None:
    """Which keys a query may see there, every metric of attention would have to know."""
    if facts.attention_chunk is not None and longest > facts.attention_chunk:
        raise InputError(
            f"{facts.name} attends within chunks of {facts.attention_chunk} tokens, a prompt has {longest}: "
            f"load the prompts with max_tokens={facts.attention_chunk}, or measure other observers than "
            "AttentionObserver's"
        )


def _run_batch(
    model: Model, batch: Batch, hooks: Sequence[Hook], chunk: int | None, blocks_only: bool
) -> None:
    """One batch, whole or in chunks that share a KV cache."""
    tokens = batch.tokens.to(model.cfg.device)
    length = tokens.shape[1]
    step = length if chunk is None else chunk
    cache: Any = new_cache(model, len(tokens)) if step < length else None
    for offset in range(0, length, step):
        context = BatchContext(offset, batch.lengths, batch.prompts, batch.tokens)
        with running(context):
            block = tokens[:, offset : offset + step]
            run(model, block, hooks, cache=cache, blocks_only=blocks_only)


def check_prompts(
    model: Model,
    prompts: Prompts,
    batch_size: int | Literal["auto"] = "auto",
    chunk: int | Literal["auto"] | None = None,
) -> None:
    """Raise ``InputError`` unless the model can take these prompts in such batches and chunks."""
    facts = model_facts(model)
    facts.require("batch_mates", "anything measured")
    if batch_size != "auto" and not is_whole(batch_size, 1):
        raise InputError(f"batch_size {batch_size!r}: use 'auto' or a number of prompts from 1")
    longest = max(prompts.lengths)
    if chunk not in (None, "auto") and not is_whole(chunk, 1):
        raise InputError(f"chunk {chunk!r}: use 'auto', a number of tokens from 1, or None for whole prompts")
    if isinstance(chunk, int):
        require_cache(model, f"chunk={chunk}", chunk=chunk, longest=longest if chunk < longest else 0)
    if longest > facts.n_ctx:
        raise InputError(
            f"a prompt has {longest} tokens, the context of {facts.name} is {facts.n_ctx}: "
            f"load the prompts with max_tokens={facts.n_ctx}"
        )
    low = min(min(prompt) for prompt in prompts.tokens)
    high = max(max(prompt) for prompt in prompts.tokens)
    if low < 0 or high >= facts.d_vocab:
        raise InputError(
            f"token {low if low < 0 else high} is outside the vocabulary 0..{facts.d_vocab - 1} of "
            f"{facts.name}: were the prompts tokenised for another model?"
        )
