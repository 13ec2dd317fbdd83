"""Perplexity of a corpus by depth, through a lens, with intervals over documents."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from mcr_lens.errors import InputError
from mcr_lens.experiments.lenses import logit_lens
from mcr_lens.experiments.tasks.results import PerplexityResult
from mcr_lens.experiments.tasks.uses import sums_by
from mcr_lens.models import Model, model_facts
from mcr_lens.prompts import Prompts, PromptsLike, as_prompts, read_texts
from mcr_lens.prompts.files import read_text
from mcr_lens.stats.bootstrap import bootstrap_ratio
from mcr_lens.validate import is_whole

__all__ = ["lens_perplexity", "read_documents", "text_windows", "wikitext_articles"]

# Windows are no longer than this unless asked for: what is read out grows with them, the answer little.
_LONGEST = 2048

_TITLE = re.compile(r"\s*= [^=]*[^=\s] =\s*")


def lens_perplexity(
    model: Model,
    texts: PromptsLike,
    *,
    documents: Sequence[int] | None = None,
    max_tokens: int | None = None,
    confidence: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
    **options: Any,
) -> PerplexityResult:
    """The perplexity that every depth would have on a corpus, if it were the last.

    ``exp(sum of losses / number of predicted tokens)``: every token of the corpus counts the same, those
    that stand first in a window are not predicted. The interval resamples whole documents, so it speaks of
    other documents from the same source; a single document has none (NaN). A window whose states hold Inf or
    NaN is left out from that depth on, and a warning names it (see ``measure``).

    Args:
        texts: texts, each a document, cut into windows by ``text_windows``; or prompts or token ids,
            taken as they are.
        documents: for prompts, the document of each; ``None``: each is a document of its own. Windows of
            one text are alike, so intervals over windows are too narrow.
        max_tokens: of a window, BOS included; by default the model's context, at most 2,048. For texts only.
        confidence, n_resamples, seed: of the bootstrap.
        options: those of ``logit_lens``: ``interventions``, ``translators``, ``batch_size``, ``chunk``,
            ``progress``.

    Returns:
        ``.data``: that of ``logit_lens``, a prompt a window, with the coordinate ``document`` (prompt) and
        over ``depth``: ``perplexity``, ``perplexity_low``, ``perplexity_high``. How the interval was made
        stands in ``attrs["interval"]``.

    Raises:
        InputError: for documents that do not belong to the prompts, ``max_tokens`` with prompts, and for what
            ``logit_lens`` and ``text_windows`` refuse.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> perplexity = lens_perplexity(model, mcr.prompts.word_problems(8), progress=False)["perplexity"]
        >>> bool(perplexity[-1] < perplexity[0])
        True
    """
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list | tuple) or any(not isinstance(text, str) for text in texts):
        if max_tokens is not None:
            raise InputError("max_tokens is for texts: these prompts are windows already, load them shorter")
        prompts = as_prompts(texts, model)
        documents = range(len(prompts)) if documents is None else documents
        if len(documents) != len(prompts):
            raise InputError(f"{len(documents)} documents for {len(prompts)} prompts: give one a prompt")
        if not (all(map(is_whole, documents)) or all(isinstance(name, str) for name in documents)):
            raise InputError("documents: give whole numbers or names, the same for all windows of a document")
    elif documents is not None:
        raise InputError("documents is for prompts: each of these texts is a document already")
    else:
        prompts, documents = text_windows(cast(Sequence[str], texts), model, max_tokens=max_tokens)
    data = logit_lens(model, prompts, **options).data
    data = data.assign_coords(document=("prompt", np.asarray(documents)))
    # Summed loss and number of predicted tokens of every document at every depth.
    predicted = (data.n_tokens - 1).where(data.lens_loss.notnull(), 0).transpose("prompt", "depth").values
    losses = np.where(predicted > 0, data.lens_loss.values, 0) * predicted
    sums, counts = (sums_by(data.document.values, each) for each in (losses, predicted))
    resampling = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    low, high = bootstrap_ratio(sums, counts, **resampling)
    with np.errstate(over="ignore", invalid="ignore"):  # infinitely perplexed; every window is left out
        for end, loss in (("", sums.sum(0) / counts.sum(0)), ("_low", low), ("_high", high)):
            data[f"perplexity{end}"] = ("depth", np.exp(loss))
    data.attrs["interval"] = {**resampling, "documents": len(sums)}
    return PerplexityResult(data)


def text_windows(
    texts: Sequence[str], model: Model, *, max_tokens: int | None = None, prepend_bos: bool | None = None
) -> tuple[Prompts, list[int]]:
    """Cut texts into windows that do not overlap, each with a BOS of its own, and say whose each is.

    With a BOS (``Prompts.from_texts`` says when there is one) a window is BOS and ``max_tokens - 1`` tokens
    of the text, and each token of the text is predicted exactly once, those at the beginning of a window
    from little context. Without, the first token of each window is never predicted. The last window of a text
    is as long as what is left; one of a single token is left out.

    Returns:
        Prompts, and for each the index of its text (texts of fewer than 2 tokens are left out and not
        counted).

    Raises:
        InputError: as ``Prompts.from_texts``, and for windows longer than the context.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> prompts, documents = text_windows(mcr.prompts.word_problems(3), model, max_tokens=16)
        >>> max(prompts.lengths), len(set(prompts.first_tokens)), documents[0], documents[-1]
        (16, 1, 0, 2)
    """
    n_ctx = model_facts(model).n_ctx
    size = min(n_ctx, _LONGEST) if max_tokens is None else max_tokens
    if not is_whole(size, 2, n_ctx + 1):
        raise InputError(f"max_tokens {size!r}: use 2 to {n_ctx}, the context of {model_facts(model).name}")
    whole = Prompts.from_texts(texts, model, prepend_bos=prepend_bos)
    # A BOS that was put first is put first again; one that a text brought itself belongs to the text.
    n_first = int(whole.bos in ("prepended", "eos prepended"))
    windows, documents = [], []
    for document, tokens in enumerate(whole.tokens):
        for start in range(n_first, len(tokens), size - n_first):
            window = tokens[:n_first] + tokens[start : start + size - n_first]
            if len(window) >= 2:
                windows.append(window)
                documents.append(document)
    options = {**whole.options, "max_tokens": size, "windows": True}
    return replace(whole, tokens=tuple(windows), options=options), documents


def wikitext_articles(lines: Sequence[str]) -> list[str]:
    r"""The articles of WikiText, so that each can be a document.

    An article begins with its title, a line ``= Title =`` between two blank lines; headings of sections have
    more signs, and lines of formulas no blank lines around them. What stands before the first title is an
    article too.

    Args:
        lines: all lines, blank ones included, with or without their line ends:
            ``Path("wiki.test.tokens").read_text().split("\n")``, or of a data set
            ``read_texts("hf:Salesforce/wikitext", config="wikitext-2-raw-v1", split="test")``.

    Example:
        >>> articles = wikitext_articles(["= A =", "", "Text .", "", "= B =", "", "More ."])
        >>> [article.split("\n")[0] for article in articles]
        ['= A =', '= B =']
    """
    texts = ["", *(line.strip("\n") for line in lines), ""]
    articles: list[list[str]] = [[]]
    for before, text, after in zip(texts, texts[1:], texts[2:], strict=False):
        if _TITLE.fullmatch(text) and not before.strip() and not after.strip():
            articles.append([])
        articles[-1].append(text)
    return ["\n".join(article) for article in articles if any(text.strip() for text in article)]


def read_documents(
    source: str,
    *,
    field: str | None = None,
    n: int | None = None,
    config: str | None = None,
    split: str | None = None,
) -> list[str]:
    """The texts of a file or data set, each a document; of WikiText, which comes in lines, its articles.

    Args:
        source: as for ``load_prompts``: a file, or ``hf:NAME`` with ``config`` and ``split``.
        field: the column that holds the text.
        n: only the first so many documents.

    Raises:
        InputError: as ``read_texts``; for ``n`` below 1.
    """
    if n is not None and n < 1:
        raise InputError(f"n = {n}: ask for at least one document")
    texts = read_texts(source, field=field, config=config, split=split)
    # Blank lines tell titles from formulas; the reader of texts drops them.
    is_file = source.endswith(".txt")
    lines = read_text(Path(source).expanduser()).split("\n") if is_file else texts
    articles = wikitext_articles(lines)
    return (articles if len(articles) > 1 else texts)[:n]
