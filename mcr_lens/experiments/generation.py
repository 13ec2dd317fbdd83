"""A model is watched while it generates: how the sink, the valley and the loss move as the text grows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from mcr_lens import phases
from mcr_lens.engine import check_prompts, measure
from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext, running
from mcr_lens.hooks.interventions import described
from mcr_lens.hooks.lenses.logit import LogitLens
from mcr_lens.hooks.observers.observe import observe
from mcr_lens.hooks.observers.rows import Rows
from mcr_lens.metrics.residual_state import ResidualState
from mcr_lens.models import Hook, Model, model_facts
from mcr_lens.models.backend import evaluation_mode, new_cache, run
from mcr_lens.models.info import one_measurement, require_cache
from mcr_lens.phases.compression import typical_compression
from mcr_lens.prompts import Prompts, PromptsLike, as_prompts
from mcr_lens.results import Result
from mcr_lens.validate import check_count, check_indices

__all__ = ["GenerationResult", "profile_generation"]

# Prompts of one length that are generated together.
_TOGETHER = 8


class GenerationResult(Result):
    """What a model did while it generated: see ``profile_generation`` for what is in ``data``."""

    kind = "generation"
    dims = ("prompt", "step", "depth")

    @property
    def headline(self) -> str:
        """Of which model, and how much."""
        sizes = self.data.sizes
        return (
            f"Generation by {self.model_name}, {sizes['prompt']} prompts, {sizes['new_token']} new tokens, "
            f"looked at after {', '.join(map(str, self.data.step.values))}"
        )

    def sink_compression(self) -> xr.DataArray:
        """Kappa of the text so far, (prompt, step, depth); see ``mcr_lens.phases.sink_compression``."""
        return phases.sink_compression(self.data)

    def summary(self) -> pd.DataFrame:
        """Means over prompts, a row a step: largest norm ratio and kappa of any depth, attention and loss.

        ``sink_attention`` (mean over heads, of the layer where it is largest) and ``loss`` (at the last
        depth) are those of the new tokens since the step before.
        """
        data = self.data
        kappa = typical_compression(self.sink_compression())
        table = pd.DataFrame(
            {
                "norm_ratio": data.norm_ratio.mean("prompt").max("depth").to_series(),
                "kappa": kappa.mean("prompt").max("depth").to_series(),
                "normalized_entropy": data.normalized_entropy.mean("prompt").min("depth").to_series(),
            }
        )
        last = np.searchsorted(data.step.values, data.new_token.values, side="left")
        of_step = xr.DataArray(data.step.values[last], dims="new_token", name="step")
        of_tokens = {}
        if "sink_attention" in data:
            of_tokens["sink_attention"] = data.sink_attention.mean(["prompt", "head"]).max("layer")
        if "lens_loss" in data:
            of_tokens["loss"] = data.lens_loss.isel(depth=-1).mean("prompt")
        for name, values in of_tokens.items():
            table[name] = values.groupby(of_step).mean().to_series()
        return table.rename_axis("step")


def profile_generation(
    model: Model,
    prompts: PromptsLike,
    max_new_tokens: int,
    *,
    interventions: Sequence[Hook] = (),
    steps: Iterable[int] | None = None,
    sink_position: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
    progress: bool = True,
) -> GenerationResult:
    """Generate under interventions, and measure the growing text at stated steps.

    Tokens come from the model's own KV cache, prompts of one length together. The whole texts are then read
    in one more pass under the same interventions, by hooks that reduce: in a causal model the first rows of
    a text are those of the text that was there before, so that the numbers of a step are those of a profile
    of the text so far. A model goes on after its EOS, so that all texts grow by as many tokens.

    Args:
        prompts: texts, ids or ``Prompts``.
        max_new_tokens: tokens that are generated for each prompt.
        interventions: hooks that hold from the first token on; positions are those in the text.
        steps: numbers of new tokens after which the text is measured; by default 0, 1, 2, 4, ... and
            ``max_new_tokens``. Each costs the spectra of one profile.
        sink_position: as in ``profile``.
        temperature: 0 takes the most likely token, above 0 samples.
        seed: of the sampling.

    Returns:
        A result whose ``data`` has, by ``(prompt, step, depth)``, the variables of the residual stream that a
        profile has; by ``(prompt, new_token, layer, head)`` ``sink_attention``, the attention of each new
        token to the sink; by ``(prompt, new_token, depth)`` ``lens_loss``, what each new token cost a logit
        lens at each depth (nats); the ids as ``token`` (prompt, new_token), and ``n_tokens`` (prompt,
        step). ``new_token`` counts from 1. What the self-check found broken is left out.

    Raises:
        InputError: for options out of range, texts that outgrow the context, or a model whose cache is
        broken.

    A model whose rotary factors depend on the length of the call (longrope) is refused where a text would
    grow beyond that length: what it looked like while it was shorter cannot be read off its end.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> grown = mcr.profile_generation(model, ["Ann has 5 pens."], 8, progress=False)
        >>> grown.data.norm_ratio.sizes["step"], grown.data.sink_attention.sizes["new_token"]
        (5, 8)
    """
    check_count("max_new_tokens", max_new_tokens)
    interventions, prompts = list(interventions), as_prompts(prompts, model)
    if steps is None:
        steps = {0, *(2**power for power in range(max_new_tokens.bit_length())), max_new_tokens}
    at_steps: list[int] = sorted(set(check_indices("steps", list(steps), max_new_tokens + 1)))
    if min(prompts.lengths) + at_steps[0] <= sink_position:
        raise InputError(f"sink_position {sink_position}: a prompt is shorter at step {at_steps[0]}")
    if temperature < 0:
        raise InputError(f"temperature {temperature}: use 0 for the most likely token, or more")
    with one_measurement(model) as facts:
        require_cache(model, "profile_generation")
        if any(facts.mixes_rotary(length, length + max_new_tokens) for length in prompts.lengths):
            facts.distrust(
                "profile_generation",
                f"its rotary factors are others in calls that reach beyond {facts.rotary_limit} tokens, so a "
                "text that grows beyond them is another one from its first token on; stay on one side",
            )
        grown = _grown(model, prompts, max_new_tokens, interventions, temperature, seed, progress)
        check_prompts(model, grown)
        data = measure(
            model,
            grown,
            _observers(model, facts.failed_checks, max_new_tokens, at_steps, sink_position),
            interventions=interventions,
            progress=progress,
        )
    return GenerationResult(_arranged(data, grown, max_new_tokens, at_steps, sink_position, interventions))


def _grown(
    model: Model,
    prompts: Prompts,
    max_new_tokens: int,
    interventions: list[Hook],
    temperature: float,
    seed: int,
    progress: bool,
) -> Prompts:
    """The prompts with the tokens that the model adds to them."""
    facts, longest = model_facts(model), max(prompts.lengths) + max_new_tokens
    if longest > facts.n_ctx:
        raise InputError(f"texts would have {longest} tokens, the context of {facts.name} is {facts.n_ctx}")
    check_prompts(model, prompts)
    sampler = torch.Generator().manual_seed(seed)
    texts = [list(ids) for ids in prompts.tokens]
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(prompts.lengths):
        by_length.setdefault(length, []).append(index)
    groups = [
        group[start : start + _TOGETHER]
        for group in by_length.values()
        for start in range(0, len(group), _TOGETHER)
    ]
    bar = tqdm(total=len(texts), unit="prompt", desc="generate", disable=None if progress else True)
    with bar, evaluation_mode(model):
        for group in groups:
            tokens = torch.tensor([texts[index] for index in group])
            cache: Any = new_cache(model, len(group))
            block, offset = tokens, 0
            lengths = torch.full((len(group),), tokens.shape[1] + max_new_tokens)
            for _ in range(max_new_tokens):
                with running(BatchContext(offset, lengths, tuple(group))):
                    logits = run(model, block.to(model.cfg.device), interventions, cache=cache)[:, -1]
                offset += block.shape[1]
                block = _next_token(logits.float().cpu(), temperature, sampler)
                tokens = torch.cat([tokens, block], 1)
            for index, ids in zip(group, tokens.tolist(), strict=True):
                texts[index] = ids
            bar.update(len(group))
    return Prompts(tuple(map(tuple, texts)))


def _next_token(logits: Tensor, temperature: float, sampler: torch.Generator) -> Tensor:
    if not bool(logits.isfinite().all()):
        raise InputError("the logits hold Inf or NaN: there is no next token")
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=sampler)


def _observers(
    model: Model, failed: Mapping[str, str], new: int, steps: Sequence[int], sink: int
) -> list[Any]:
    def prefixes(block: Tensor, rows: Rows) -> dict[str, Tensor]:
        """Every variable of the residual stream, for the text at each step."""
        values: dict[str, list[Tensor]] = {}
        block = torch.where(rows.real[..., None], block, 0.0)
        for step in steps:
            state = ResidualState(rows.host_lengths - new + step, sink)
            state.update(block[:, : int(rows.host_lengths.max()) - new + step])
            for name, value in state.result().items():
                values.setdefault(name, []).append(value)
        return {name: torch.stack(each, 1) for name, each in values.items()}

    def attention(pattern: Tensor, rows: Rows) -> dict[str, Tensor]:
        """The column of the sink, for the rows of the new tokens."""
        queries = (rows.lengths[:, None] - new + torch.arange(new, device=rows.lengths.device))[:, None]
        column = pattern[..., sink]
        return {"sink_attention": column.gather(2, queries.expand(-1, column.shape[1], -1))}

    observers: list[Any] = [observe(prefixes, dims=("step",))]
    if "pattern_rows" not in failed:
        observers.append(observe(attention, "attn.hook_pattern", dims=("head", "new_token")))
    if "final_readout" not in failed:
        observers.append(LogitLens(model, per_token=True))
    return observers


def _arranged(
    data: xr.Dataset, grown: Prompts, new: int, steps: Sequence[int], sink: int, interventions: list[Hook]
) -> xr.Dataset:
    """Steps and new tokens as dimensions, the lens at the tokens that were generated alone."""
    lengths, arrival = np.array(grown.lengths), np.arange(new)
    first = xr.DataArray(lengths - new, dims="prompt")
    result = data.drop_vars([name for name in data if str(name).startswith(("lens_", "target_"))])
    result = result.drop_dims("position", errors="ignore").drop_vars(["n_tokens", "first_token"])
    if "lens_loss_by_token" in data:  # the loss of a token stands at the position that predicts it
        positions = first + xr.DataArray(arrival, dims="new_token") - 1
        result["lens_loss"] = data.lens_loss_by_token.isel(position=positions)
    ids = [text[length - new :] for text, length in zip(grown.tokens, grown.lengths, strict=True)]
    result = result.assign_coords(
        step=list(steps),
        new_token=arrival + 1,
        token=(("prompt", "new_token"), np.array(ids)),
        n_tokens=first + xr.DataArray(list(steps), dims="step"),
    ).drop_vars("position", errors="ignore")
    result.attrs = data.attrs | {"sink_position": sink, "interventions": described(interventions)}
    return result.transpose("prompt", "step", "new_token", ...)
