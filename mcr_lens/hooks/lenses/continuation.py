"""``AnswerLens``: how likely every depth finds given continuations, read out at their rows alone."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import xarray as xr
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.lenses.translators import Translators
from mcr_lens.hooks.observers.base import BlockObserver, PromptTable, depth_points
from mcr_lens.hooks.observers.rows import Rows
from mcr_lens.metrics.prediction import all_finite, log_distribution
from mcr_lens.models import Model, model_facts
from mcr_lens.models.unembed import read_out, rows_at_a_time
from mcr_lens.validate import check_indices, is_whole

__all__ = ["Answer", "AnswerLens"]


class Answer(NamedTuple):
    """A continuation whose likelihood is asked for.

    Attributes:
        prompt: index of the prompt that it continues.
        position: of the prompt's token that predicts its first one; the next positions predict the rest.
        tokens: its token ids, at least one.
    """

    prompt: int
    position: int
    tokens: tuple[int, ...]


class AnswerLens(BlockObserver[None]):
    """An observer: the log-likelihood of answers, read out of every depth.

    ``LogitLens`` reads out every row, this one only the rows that predict a token of an answer: with a long
    question and short answers, a few in a hundred. What an answer's last token would predict is never asked,
    so it need not be in the prompt, and answers of one token share the prompt that they continue.

    Args:
        n_prompts: how many prompts will be run.
        answers: what is asked of them.
        depths: the depths to read, of 0..L.
        translators: of a tuned lens; ``None``: the logit lens.

    Raises:
        InputError: for no answer, or one of a prompt, a position or tokens that there are none of; for depths
            that the model does not have.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> prompts = mcr.Prompts.from_tokens([[0, 11, 12, 13]])
        >>> lens = AnswerLens(model, 1, [Answer(0, 3, (21,)), Answer(0, 2, (13, 22))], [0, 5])
        >>> mcr.measure(model, prompts, [lens], progress=False).log_likelihood.dims
        ('answer', 'depth')
    """

    def __init__(
        self,
        model: Model,
        n_prompts: int,
        answers: Sequence[Answer],
        depths: Sequence[int],
        translators: Translators | None = None,
    ) -> None:
        self._model, facts = model, model_facts(model)
        self._depths = check_indices("depths", depths, facts.n_layers + 1)
        _check(answers, n_prompts, facts.d_vocab)
        super().__init__(depth_points(facts.n_layers, self._depths), PromptTable("depth", self._depths))
        self._translators = None if translators is None else translators.to(model.cfg.device)
        self._prompts = [answer.prompt for answer in answers]
        # By token of an answer: its answer, the position that predicts it, its id.
        self._of = torch.tensor([i for i, answer in enumerate(answers) for _ in answer.tokens])
        at = [answer.position + k for answer in answers for k in range(len(answer.tokens))]
        self._positions = torch.tensor(at)
        self._targets = torch.tensor([token for answer in answers for token in answer.tokens])
        self._prompt_of_token = torch.tensor(self._prompts)[self._of]
        self.begin(model)

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was read before is forgotten."""
        shape = (len(self._depths), len(self._of))
        self._log_p = torch.full(shape, torch.nan)
        self._greedy = torch.zeros(shape, dtype=torch.bool)

    def result(self) -> xr.Dataset:
        """``log_likelihood`` (answer, depth) in nats: the sum over the answer's tokens.

        NaN where it was never run, and where logits that predict one of its tokens are not finite.
        ``is_greedy``: whether each token of the answer is the likeliest of the vocabulary in its place.
        """
        sums = torch.zeros(len(self._depths), len(self._prompts), dtype=torch.float64)
        missed = sums.index_add(1, self._of, (~self._greedy).double())
        sums.index_add_(1, self._of, self._log_p.double())
        return xr.Dataset(
            {
                "log_likelihood": (("answer", "depth"), sums.T.numpy()),
                "is_greedy": (("answer", "depth"), (missed == 0).T.numpy()),
            },
            coords={
                "answer": range(len(self._prompts)),
                "prompt_of_answer": ("answer", self._prompts),
                "depth": list(self._depths),
            },
        )

    def _take(self, block: Tensor, rows: Rows, place: int) -> None:
        n_rows = block.shape[1]
        # Which row of the batch each token's prompt is, and where in the block it is predicted.
        is_of = self._prompt_of_token[:, None] == torch.tensor(rows.prompts)
        at = self._positions - rows.context.offset
        tokens = (is_of.any(1) & (at >= 0) & (at < n_rows)).nonzero()[:, 0]
        flat = is_of[tokens].int().argmax(1) * n_rows + at[tokens]
        # Several answers may ask the same row.
        distinct, asks = flat.unique(return_inverse=True)
        states = block.flatten(0, 1)[distinct.to(block.device)]
        size, depth = rows_at_a_time(self._model), self._depths.index(place)
        for start in range(0, len(distinct), size):
            inside = (asks >= start) & (asks < start + size)
            logits = self._logits(states[start : start + size], place)
            which = (asks[inside] - start).to(logits.device)
            targets = self._targets[tokens[inside]].to(logits.device)
            finite = all_finite(logits)
            log_p = log_distribution(logits).masked_fill_(~finite[:, None], torch.nan)
            greedy = (log_p.argmax(-1)[which] == targets) & finite[which]
            self._log_p[depth, tokens[inside]] = log_p[which, targets].float().cpu()
            self._greedy[depth, tokens[inside]] = greedy.cpu()

    def _logits(self, states: Tensor, depth: int) -> Tensor:
        if self._translators is not None and depth < self._translators.n_layers:
            states = self._translators.translate(states, depth)
        return read_out(self._model, states[None])[0]


def _check(answers: Sequence[Answer], n_prompts: int, d_vocab: int) -> None:
    if not answers:
        raise InputError("no answers: give at least one")
    for number, answer in enumerate(answers):
        if not is_whole(answer.prompt, 0, n_prompts) or not is_whole(answer.position, 0):
            raise InputError(
                f"answer {number}: position {answer.position} of prompt {answer.prompt}: use prompts "
                f"0..{n_prompts - 1} and positions from 0"
            )
        if not len(answer.tokens) or not all(is_whole(token, 0, d_vocab) for token in answer.tokens):
            raise InputError(
                f"answer {number}: tokens {list(answer.tokens)[:8]}: use one or more of the vocabulary, "
                f"0..{d_vocab - 1}"
            )
