"""Fitting a tuned lens: affine translators that bring every depth's prediction near the last one's."""

import random
from collections.abc import Iterator
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
from mcr_lens.models import Model, model_facts, require
from mcr_lens.models.backend import evaluation_mode, run
from mcr_lens.models.unembed import read_out, rows_at_a_time
from mcr_lens.not_finite import remedy
from mcr_lens.prompts import Batch, Prompts, PromptsLike, as_prompts
from mcr_lens.validate import check_count, check_fraction, check_positive

__all__ = ["fit_tuned_lens"]

# The held-out prompts are looked at this many times while fitting.
_LOOKS = 10


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
    _check(prompts, steps, learning_rate, tokens_per_step, held_out)
    facts = model_facts(model)
    training, held = _split(len(prompts), held_out, seed)
    held_prompts = Prompts.from_tokens([prompts.tokens[i] for i in held])
    fit = _Fit(model, learning_rate, steps)
    best = _Best(fit.translators(), _held_out_kl(model, held_prompts, fit.translators()))
    batches = _batches([prompts.tokens[i] for i in training], tokens_per_step, seed)
    between = max(1, steps // _LOOKS)
    with evaluation_mode(model):
        for step in tqdm(range(1, steps + 1), desc="fit", disable=None if progress else True):
            fit.step(next(batches))
            if step % between == 0 or step == steps:
                now = fit.translators()
                best.update(now, _held_out_kl(model, held_prompts, now), step)
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
        "held_out_prompts": held,
        "held_out_kl_before": best.first.tolist(),
        "held_out_kl_after": best.kl.tolist(),
        "kept_step": best.step.tolist(),
        "versions": {name: version(name) for name in ("mcr-lens", "torch")},
    }
    return Translators(best.weights, best.biases, record)


class _Fit:
    """The translators while they are fitted: leaves of their own, one pair a depth."""

    def __init__(self, model: Model, learning_rate: float, steps: int) -> None:
        self._model = model
        cfg = model.cfg
        shapes = ((cfg.d_model, cfg.d_model), (cfg.d_model,))
        self._pairs = [
            tuple(torch.zeros(shape, device=cfg.device, requires_grad=True) for shape in shapes)
            for _ in range(cfg.n_layers)
        ]
        leaves = [leaf for pair in self._pairs for leaf in pair]
        self._optimizer = torch.optim.Adam(leaves, lr=learning_rate)
        self._schedule = torch.optim.lr_scheduler.LinearLR(self._optimizer, 1.0, 0.0, max(1, steps))

    def step(self, batch: Batch) -> None:
        """One Adam step on a batch."""
        states = _states(self._model, batch)
        self._optimizer.zero_grad()
        size = rows_at_a_time(self._model)
        count = len(states[-1])
        for start in range(0, count, size):
            rows = slice(start, start + size)
            last = read_out(self._model, states[-1][rows][None])[0]
            if not bool(all_finite(last).all()):
                raise _nothing_to_fit(self._model, "logits")
            log_last = log_distribution(last)
            for state, pair in zip(states[:-1], self._pairs, strict=True):
                self._add_gradients(state[rows], pair, log_last, count)
        self._optimizer.step()
        self._schedule.step()

    def translators(self) -> Translators:
        """A copy of where they are now."""
        weights, biases = (
            torch.stack([leaf.detach().cpu() for leaf in kind]) for kind in zip(*self._pairs, strict=True)
        )
        return Translators(weights, biases)

    def _add_gradients(self, state: Tensor, pair: tuple[Tensor, ...], log_last: Tensor, count: int) -> None:
        with torch.enable_grad():
            logits = read_out(self._model, translate(state, *pair)[None], gradients=True)[0]
            # One gradient that is NaN, and Adam's averages are lost for good.
            finite = all_finite(logits)
            loss = kl_divergence(log_last[finite], log_distribution(logits[finite])).sum() / count
            # Of these leaves alone: the model's parameters are never asked.
            torch.autograd.backward(loss, inputs=list(pair))


class _Best:
    """Of every depth, the translator with the lowest held-out KL so far."""

    def __init__(self, start: Translators, kl: Tensor) -> None:
        self.weights, self.biases = start.weights.clone(), start.biases.clone()
        self.first, self.kl = kl, kl.clone()
        self.step = torch.zeros(len(kl), dtype=torch.int64)

    def update(self, now: Translators, kl: Tensor, step: int) -> None:
        better = kl < self.kl  # False for NaN: what diverged is not kept
        self.weights[better], self.biases[better] = now.weights[better], now.biases[better]
        self.kl[better], self.step[better] = kl[better], step


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


def _split(n: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to fit on, and the held-out ones."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    n_held = min(max(1, round(held_out * n)), n - 1)
    return sorted(order[n_held:]), sorted(order[:n_held])


def _batches(prompts: list[tuple[int, ...]], tokens: int, seed: int) -> Iterator[Batch]:
    """For ever: whole prompts in a new order each time round, until there are enough tokens."""
    rng = random.Random(seed)
    order: list[int] = []
    while True:
        chosen: list[tuple[int, ...]] = []
        while len(chosen) < len(prompts) and sum(map(len, chosen)) < tokens:
            if not order:
                order = rng.sample(range(len(prompts)), len(prompts))
            chosen.append(prompts[order.pop()])
        yield next(Prompts.from_tokens(chosen).batches(len(chosen)))


def _check(prompts: Prompts, steps: int, learning_rate: float, tokens_per_step: int, held_out: float) -> None:
    if len(prompts) < 2:
        raise InputError("fit_tuned_lens needs at least 2 prompts: one is held out")
    check_count("steps", steps, 0)
    check_count("tokens_per_step", tokens_per_step)
    check_fraction("held_out", held_out, 0.1)
    check_positive("learning_rate", learning_rate, 1e-3)
