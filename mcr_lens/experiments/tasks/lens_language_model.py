"""``LensLanguageModel``: a model of the lm-evaluation-harness that answers from one depth, through a lens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from transformers import AutoTokenizer

from mcr_lens.engine import measure
from mcr_lens.errors import InputError, one_line, require_extra
from mcr_lens.hooks.lenses.continuation import Answer, AnswerLens
from mcr_lens.hooks.lenses.logit import LogitLens
from mcr_lens.hooks.lenses.translators import Translators
from mcr_lens.hooks.lenses.tuned import TunedLens
from mcr_lens.hooks.observers.pooled_states import chosen_depths
from mcr_lens.models import Hook, Model, model_facts
from mcr_lens.prompts import Prompts

try:
    from lm_eval.api.model import TemplateLM
except ImportError:  # the extra is not installed: the module can be read, the class not made
    TemplateLM = object

__all__ = ["LensLanguageModel"]

# A request as the harness encodes it: its two texts, the context's ids and the continuation's.
_Encoded = tuple[Any, list[int], list[int]]


class LensLanguageModel(TemplateLM):  # type: ignore[valid-type, misc]
    """Answers the likelihood requests of ``lm_eval`` from a depth of a TransformerLens model.

    What is asked for the first time is measured at all ``depths`` in one pass and remembered; set
    ``depth`` to choose which of them answers. Contexts and continuations are split, prefixed and cut from
    the left as by the harness's own ``HFLM``, so at the last depth the answers are those of
    ``HFLM(folder, dtype="float32")`` to float error.

    About the BOS: by default there is one exactly where ``HFLM`` has one, that is where the tokenizer *as it
    was saved* puts it, which may differ from what ``load_prompts`` and TransformerLens do (Pythia and GPT-2
    are asked without). Without a BOS the first token of the text is the one that becomes massive, if any
    does: compare with a profile of prompts tokenised in the same way.

    Args:
        model: from ``load_model``.
        interventions: hooks that edit; a position of theirs is one of the request's tokens but the last.
        translators: of a tuned lens; ``None``: the logit lens.
        depths: of 0..L, all by default. ``depth`` is the last of them at first.
        tokenizer: a Hugging Face tokenizer; by default the model's is loaded anew, because TransformerLens
            has its own begin with a BOS.
        add_bos_token: ``None``: as the tokenizer was saved; ``True``: a BOS first, always once; ``False``:
            no special tokens.
        max_length: tokens that the model is given at most; by default its context.
        options: ``batch_size``, ``chunk`` and ``progress``, as in ``measure``.

    Raises:
        InputError: where lm-eval is missing, for depths the model does not have, translators made for
            another model, a tokenizer that cannot be had, or a broken read-out.

    Example:
        >>> import lm_eval                                                     # doctest: +SKIP
        >>> third = LensLanguageModel(mcr.load_model("gpt2"), depths=[3])      # doctest: +SKIP
        >>> lm_eval.simple_evaluate(third, tasks=["wikitext"])["results"]      # doctest: +SKIP
    """

    def __init__(
        self,
        model: Model,
        *,
        interventions: Sequence[Hook] = (),
        translators: Translators | None = None,
        depths: Sequence[int] | None = None,
        tokenizer: Any = None,
        add_bos_token: bool | None = None,
        max_length: int | None = None,
        **options: Any,
    ) -> None:
        require_extra("lm_eval", "multiple-choice tasks", "tasks")
        super().__init__()
        # Both refuse what cannot be read out; the rows that they would read are not the ones asked for.
        LogitLens(model) if translators is None else TunedLens(model, translators)
        facts = model_facts(model)
        self.depths = chosen_depths(depths, facts.n_layers)
        self.depth = self.depths[-1]
        self.max_length = min(max_length or facts.n_ctx, facts.n_ctx)
        self.add_bos_token = add_bos_token
        self.tokenizer = _fresh_tokenizer(model, add_bos_token) if tokenizer is None else tokenizer
        if add_bos_token and self.tokenizer.bos_token_id is None:
            raise InputError("add_bos_token=True: the tokenizer has no BOS token; use False or None")
        self.truncated = 0
        self._model = model
        self.interventions = list(interventions)
        self.translators = translators
        self._options = options
        self._answers: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
        self._first_tokens: list[int] = []

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a continuation without a context: BOS, or EOS where there is none."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """Tells caches of requests apart."""
        return self.tokenizer.name_or_path.replace("/", "__")

    @property
    def share_with_bos(self) -> float:
        """Of the sequences that were run, the share that begins with the BOS; NaN before the first."""
        first = np.array(self._first_tokens)
        return float((first == self.tokenizer.bos_token_id).mean()) if len(first) else float("nan")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids, with a BOS as ``add_bos_token`` says unless the text begins with one."""
        if add_special_tokens is not None:
            return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        first = self.prefix_token_id
        special = False if string.startswith(self.tokenizer.decode(first)) else self.add_bos_token
        ids = self.tokenizer.encode(string, **({} if special is None else {"add_special_tokens": special}))
        return [first, *ids] if self.add_bos_token and ids[:1] != [first] else ids

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """``(log-likelihood, is greedy)`` of every request's continuation, at ``depth``."""
        pairs = [tuple(request.args) for request in requests]
        new = {pair: r for pair, r in zip(pairs, requests, strict=True) if pair not in self._answers}
        if new:
            super().loglikelihood(list(new.values()), disable_tqdm=True)
        return [self._at_depth(pair) for pair in pairs]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of the context's length that the harness cuts."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        texts = [request.args[0] for request in requests]
        new = [text for text in dict.fromkeys(texts) if text not in self._answers]
        windows, owners = [], []
        size = {"prefix_token": self.prefix_token_id, "max_seq_len": self.max_length, "context_len": 1}
        for i, text in enumerate(new):
            pairs = [*get_rolling_token_windows(self.tok_encode(text), **size)]
            windows += [(None, *make_disjoint_window(pair)) for pair in pairs]
            owners += [i] * len(pairs)
        totals = np.zeros((len(new), len(self.depths)))
        if windows:
            np.add.at(totals, owners, self._measure(windows)[0])
        for text, total in zip(new, totals, strict=True):
            self._answers[text] = (total, np.zeros(len(self.depths), dtype=bool))
        return [self._at_depth(text)[0] for text in texts]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Refused: a depth below the last continues no text of its own."""
        raise InputError(
            "a lens answers likelihood requests only, the task asks for generated text: choose a "
            "multiple-choice task, or one with output_type loglikelihood"
        )

    def _loglikelihood_tokens(self, requests: list[_Encoded], **kwargs: Any) -> list[tuple[float, bool]]:
        """Measure at all depths; called by the harness's ``loglikelihood`` with what it has encoded."""
        values = zip(*self._measure(requests), strict=True)
        for (pair, _, _), answer in zip(requests, values, strict=True):
            self._answers[pair] = answer
        return [self._at_depth(pair) for pair, _, _ in requests]

    def _at_depth(self, key: Any) -> tuple[float, bool]:
        if self.depth not in self.depths:
            raise InputError(f"depth {self.depth} is not measured: choose one of {self.depths}")
        log_likelihood, is_greedy = self._answers[key]
        place = self.depths.index(self.depth)
        return float(log_likelihood[place]), bool(is_greedy[place])

    def _measure(
        self, requests: Sequence[_Encoded]
    ) -> tuple[Float[np.ndarray, "request depth"], Bool[np.ndarray, "request depth"]]:
        """Log-likelihoods, NaN from the depth on at which a prompt is not finite; and which are greedy."""
        prompts: dict[tuple[int, ...], int] = {}
        answers = []
        for pair, context, continuation in requests:
            if not 0 < len(continuation) <= self.max_length:
                raise InputError(
                    f"a continuation has {len(continuation)} tokens ({str(pair)[-60:]}): it needs 1 to "
                    f"{self.max_length}, the context of the model"
                )
            whole = (*context, *continuation)
            self.truncated += len(whole) > self.max_length + 1
            # Nothing is asked of the last token, but a prompt has at least two.
            tokens = whole[-(self.max_length + 1) :]
            position = len(tokens) - 1 - len(continuation)
            prompt = prompts.setdefault(tokens[: max(2, len(tokens) - 1)], len(prompts))
            answers.append(Answer(prompt, position, tuple(continuation)))
        lens = AnswerLens(self._model, len(prompts), answers, self.depths, self.translators)
        sequences = Prompts(tuple(prompts), source="lm_eval")
        data = measure(self._model, sequences, [lens], interventions=self.interventions, **self._options)
        self._first_tokens += sequences.first_tokens
        begins = data.not_finite_depth.values[[answer.prompt for answer in answers], None]
        finite = (begins < 0) | (np.array(self.depths) < begins)
        return np.where(finite, data.log_likelihood.values, np.nan), data.is_greedy.values


def _fresh_tokenizer(model: Model, add_bos_token: bool | None) -> Any:
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise InputError("the model has no tokenizer: give one with tokenizer=")
    options = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
    try:
        return AutoTokenizer.from_pretrained(tokenizer.name_or_path, trust_remote_code=False, **options)
    except Exception as error:  # the many errors of a library that reads the hub and the disk
        raise InputError(
            f"{tokenizer.name_or_path}: its tokenizer cannot be loaded anew ({one_line(error, 120)}); "
            "give one with tokenizer="
        ) from error
