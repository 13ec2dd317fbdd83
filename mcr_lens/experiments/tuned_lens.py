"""Fitting a tuned lens: affine translators that bring every depth's prediction near the last one's."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mcr_lens.engine import measure
from mcr_lens.errors import InputError
from mcr_lens.experiments.lens_result import lens_summary
from mcr_lens.hooks import depth_hook_name
from mcr_lens.hooks.context import BatchContext, running
from mcr_lens.hooks.lenses.translators import Translators, translate
from mcr_lens.hooks.lenses.tuned import TunedLens
from mcr_lens.hooks.observers.nonfinite import NonFinite
from mcr_lens.hooks.observers.rows import Rows
from mcr_lens.metrics.prediction import all_finite, kl_divergence, log_distribution
from mcr_lens.models import Model, batch_cost, model_facts, require
from mcr_lens.models.backend import evaluation_mode, run
from mcr_lens.models.unembed import read_out, rows_at_a_time
from mcr_lens.not_finite import remedy
from mcr_lens.prompts import Batch, BatchCost, Prompts, PromptsLike, as_prompts
from mcr_lens.validate import check_count, check_fraction, check_positive

__all__ = ["fit_tuned_lens"]

# The held-out prompts are looked at this many times while fitting.
_LOOKS = 10
_Pairs = Sequence[Sequence[Tensor]]


def fit_tuned_lens(
    model: Model,
    prompts: PromptsLike,
    *,
    steps: int = 200,
    learning_rate: float = 1e-3,
    tokens_per_step: int = 1024,
    held_out: float = 0.1,
    seed: int = 0,
    progress: bool = True,
) -> Translators:
    """Fit the translators of a tuned lens on prompts.

    Minimises ``KL(p_L || p_l)`` over tokens for every depth l < L, where p_l is read out of
    ``h + A_l h + b_l`` (Belrose et al. 2023, arXiv 2303.08112). ``A_l`` and ``b_l`` start at zero, the logit
    lens, and take Adam steps whose size falls linearly to zero. Some prompts are held out; of each depth the
    translator that did best on them is kept, the start included, so on them no depth is worse than the logit
    lens. (That choice makes the recorded KL a little optimistic: judge a lens on prompts it has never seen.)

    The model gets no gradients and is as it was afterwards. On the CPU the same seed gives the same lens.

    Args:
        steps: Adam steps, each on about ``tokens_per_step`` tokens of whole prompts.
        learning_rate: of the first step.
        held_out: fraction of the prompts that is not fitted on, at least one prompt.
        seed: of the split and of the order of prompts.

    Returns:
        Translators in float32 on the CPU. Their record says how they were fitted, with the KL of every
        depth on the held-out prompts before and after (nats, mean over tokens).

    Raises:
        InputError: for fewer than two prompts, options out of range, a model whose read-out the self-check
            found broken, or whose own states or logits hold Inf or NaN.
    """
    require(model, "final_readout", "fit_tuned_lens")
    prompts = as_prompts(prompts, model)
    if len(prompts) < 2:
        raise InputError("fit_tuned_lens needs at least 2 prompts: one is held out")
    check_count("steps", steps, 0)
    check_count("tokens_per_step", tokens_per_step)
    check_fraction("held_out", held_out, 0.1)
    check_positive("learning_rate", learning_rate, 1e-3)
    facts, cfg = model_facts(model), model.cfg
    order = list(range(len(prompts)))
    random.Random(seed).shuffle(order)
    n_held = min(max(1, round(held_out * len(prompts))), len(prompts) - 1)
    held_indices, training = sorted(order[:n_held]), sorted(order[n_held:])
    held_prompts = Prompts(tuple(prompts.tokens[i] for i in held_indices))
    batches = _batches([prompts.tokens[i] for i in training], tokens_per_step, seed, batch_cost(model))
    # Leaves of their own, one pair a depth: a gradient step holds no more than one of them.
    pairs = [
        [
            torch.zeros(shape, device=cfg.device, requires_grad=True)
            for shape in ((cfg.d_model,) * 2, cfg.d_model)
        ]
        for _ in range(cfg.n_layers)
    ]
    optimizer = torch.optim.Adam([leaf for pair in pairs for leaf in pair], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(1, steps))
    best = _translators(pairs)
    kl_before = _held_out_kl(model, held_prompts, best)
    kl, best_step = kl_before.clone(), torch.zeros(cfg.n_layers, dtype=torch.int64)
    with evaluation_mode(model):
        for step in tqdm(range(1, steps + 1), desc="fit", disable=None if progress else True):
            optimizer.zero_grad()
            _add_gradients(model, next(batches), pairs)
            optimizer.step()
            schedule.step()
            if step % max(1, steps // _LOOKS) == 0 or step == steps:
                now = _translators(pairs)
                kl_now = _held_out_kl(model, held_prompts, now)
                better = kl_now < kl  # False for NaN: what diverged is not kept
                best.weights[better], best.biases[better] = now.weights[better], now.biases[better]
                kl[better], best_step[better] = kl_now[better], step
    record = {
        "base_model": facts.name,
        "revision": facts.revision,
        "dtype": facts.dtype,
        "processing": facts.processing,
        "objective": "KL(final || lens), nats, mean over tokens",
        "optimizer": "Adam, learning rate falling linearly to 0",
        "steps": steps,
        "learning_rate": learning_rate,
        "tokens_per_step": tokens_per_step,
        "seed": seed,
        "prompts": prompts.attributes(),
        "held_out_prompts": held_indices,
        "held_out_kl_before": kl_before.tolist(),
        "held_out_kl_after": kl.tolist(),
        "kept_step": best_step.tolist(),
        "versions": {name: version(name) for name in ("mcr-lens", "torch")},
    }
    return replace(best, record=record)


def _translators(pairs: _Pairs) -> Translators:
    """A copy of where they are now."""
    weights, biases = (
        torch.stack([leaf.detach().cpu() for leaf in kind]) for kind in zip(*pairs, strict=True)
    )
    return Translators(weights, biases)


def _add_gradients(model: Model, batch: Batch, pairs: _Pairs) -> None:
    """Of the mean loss over the batch's tokens, some rows at a time."""
    *states, last = _states(model, batch)
    size = rows_at_a_time(model)
    for start in range(0, len(last), size):
        rows = slice(start, start + size)
        logits = read_out(model, last[rows][None])[0]
        if not bool(all_finite(logits).all()):
            raise _nothing_to_fit(model, "logits")
        log_last = log_distribution(logits)
        for state, pair in zip(states, pairs, strict=True):
            with torch.enable_grad():
                logits = read_out(model, translate(state[rows], *pair)[None], gradients=True)[0]
                # One gradient that is NaN, and Adam's averages are lost for good.
                finite = all_finite(logits)
                loss = kl_divergence(log_last[finite], log_distribution(logits[finite])).sum() / len(last)
                # Of these leaves alone: the model's parameters are never asked.
                torch.autograd.backward(loss, inputs=pair)


def _states(model: Model, batch: Batch) -> list[Float[Tensor, "real d_model"]]:
    """The real tokens' states at every depth 0..L, without a graph."""
    context = BatchContext(0, batch.lengths, batch.prompts)
    nonfinite = NonFinite(model)
    states: list[Tensor] = []

    def read(residual: Tensor, hook: Any) -> None:
        states.append(Rows(residual, hook).pack(residual))

    n_layers = model.cfg.n_layers
    hooks = [(depth_hook_name(depth, n_layers), read) for depth in range(n_layers + 1)]
    with running(context):
        run(model, batch.tokens.to(model.cfg.device), [*nonfinite.around(), *hooks], blocks_only=True)
    if bool((nonfinite.result().not_finite_depth >= 0).any()):
        raise _nothing_to_fit(model, "states")
    return states


def _nothing_to_fit(model: Model, where: str) -> InputError:
    return InputError(
        f"Inf or NaN in the model's own {where}: there is nothing to fit a lens to."
        f"{remedy(model_facts(model).dtype)}"
    )


def _held_out_kl(model: Model, prompts: Prompts, translators: Translators) -> Float[Tensor, "layer"]:
    """Mean over tokens of KL(final || lens) at the depths that have a translator."""
    data = measure(model, prompts, [TunedLens(model, translators)], progress=False)
    return torch.tensor(lens_summary(data).kl_to_final.to_numpy()[:-1].copy())


def _batches(prompts: list[tuple[int, ...]], tokens: int, seed: int, cost: BatchCost) -> Iterator[Batch]:
    """For ever: whole prompts in a new order each time round, until there are enough tokens."""
    rng = random.Random(seed)
    order: list[int] = []
    while True:
        rows: list[tuple[int, ...]] = []
        while len(rows) < len(prompts) and sum(map(len, rows)) < tokens:
            order = order or rng.sample(range(len(prompts)), len(prompts))
            rows.append(prompts[order.pop()])
        yield from Prompts.from_tokens(rows).batches(len(rows), cost)
