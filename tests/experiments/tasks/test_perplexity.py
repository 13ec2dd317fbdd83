"""Perplexity of a corpus by depth: windows, weights and intervals, against Hugging Face and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS
from families import eager
from scipy.stats import norm, t

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.experiments import lens_summary
from mcr_lens.experiments.tasks.perplexity import lens_perplexity, text_windows, wikitext_articles

QUICK: dict[str, Any] = {"n_resamples": 199, "progress": False}


def texts(*lengths: int) -> list[str]:
    rng = np.random.default_rng(3)
    return [" ".join(f"w{i}" for i in rng.integers(0, 60, n)) for n in lengths]


@pytest.mark.parametrize("prepend_bos", [None, False])
def test_windows_hold_every_token_once(llama: Any, prepend_bos: bool | None) -> None:
    several = texts(25, 1, 8, 7)
    prompts, documents = text_windows(several, llama, max_tokens=8, prepend_bos=prepend_bos)
    n_first = 1 if prepend_bos is None else 0
    assert max(prompts.lengths) == 8
    assert all(tokens[0] == 1 for tokens in prompts.tokens) is bool(n_first)
    # Without a BOS a text of one token is nothing to predict; nor is a last window of one.
    kept = [several[0].split()[: 25 if n_first else 24], *(s.split() for s in several[1:])]
    kept = kept if n_first else [words for words in kept if len(words) > 1]
    for document, words in enumerate(kept):
        windows = [w for w, owner in zip(prompts.tokens, documents, strict=True) if owner == document]
        assert [i for window in windows for i in window[n_first:]] == [int(w[1:]) + 3 for w in words]
        assert all(len(window) == 8 for window in windows[:-1])
    assert prompts.attributes()["options"]["max_tokens"] == 8


def test_a_bos_that_stands_in_the_text_is_the_texts(llama: Any) -> None:
    prompts, _ = text_windows(["<bos> w1 w2 w3 w4"], llama, max_tokens=3)
    assert prompts.tokens == ((1, 4, 5), (1, 6, 7))
    prompts, _ = text_windows(["<bos> w1 w2 w3 w4"], llama, max_tokens=3, prepend_bos=False)
    assert prompts.tokens == ((1, 4, 5), (6, 7))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_depth_is_the_models_own_perplexity(llama_folder: Path, backend: Any) -> None:
    model, reference = mcr.load_model(llama_folder, backend=backend), eager(llama_folder)
    several = texts(40, 5, 13)
    data = lens_perplexity(model, several, max_tokens=12, **QUICK).data
    total, count = 0.0, 0
    for tokens in text_windows(several, model, max_tokens=12)[0].tokens:
        ids = torch.tensor([tokens])
        with torch.no_grad():
            total += float(reference(ids, labels=ids).loss) * (len(tokens) - 1)
        count += len(tokens) - 1
    assert count == 40 + 5 + 13
    np.testing.assert_allclose(data.perplexity.isel(depth=-1), np.exp(total / count), rtol=1e-4)
    np.testing.assert_allclose(data.perplexity, lens_summary(data).perplexity, rtol=1e-6)
    assert data.document.values.tolist() == [0, 0, 0, 0, 1, 2, 2]


def test_batches_and_order_change_nothing(llama: Any) -> None:
    several = texts(40, 5, 13, 9)
    whole = lens_perplexity(llama, several, max_tokens=12, **QUICK).data
    single = lens_perplexity(llama, several, max_tokens=12, batch_size=1, chunk=5, **QUICK).data
    turned = lens_perplexity(llama, several[::-1], max_tokens=12, **QUICK).data
    for other in (single, turned):
        np.testing.assert_allclose(other.perplexity, whole.perplexity, rtol=1e-5)
    np.testing.assert_allclose(single.perplexity_low, whole.perplexity_low, rtol=1e-5)


def test_intervals_resample_documents_and_weigh_tokens(llama: Any) -> None:
    prompts, documents = text_windows(texts(40, 5, 13, 22, 9), llama, max_tokens=8)
    options: dict[str, Any] = {"confidence": 0.5, "n_resamples": 4999, "progress": False}
    data = lens_perplexity(llama, prompts, documents=documents, **options).data
    predicted = np.array(prompts.lengths) - 1
    of = np.array(documents)
    losses = data.lens_loss.values * predicted[:, None]
    sums = np.array([losses[of == d].sum(0) for d in range(5)])
    counts = np.array([predicted[of == d].sum() for d in range(5)])
    draws = np.random.default_rng(7).integers(5, size=(4999, 5))
    drawn = np.exp(sums[draws].sum(1) / counts[draws].sum(1)[:, None])
    tail = norm.cdf(np.sqrt(5 / 4) * t(4).ppf(0.25))  # of bootstrap_interval, expanded for five documents
    np.testing.assert_allclose(data.perplexity_low, np.quantile(drawn, tail, axis=0), rtol=0.02)
    np.testing.assert_allclose(data.perplexity_high, np.quantile(drawn, 1 - tail, axis=0), rtol=0.02)
    assert (data.perplexity_low < data.perplexity).all() and (data.perplexity < data.perplexity_high).all()
    # Neither windows nor documents count the same: tokens do.
    assert np.abs(data.perplexity - np.exp(data.lens_loss.mean("prompt"))).max() > 0.1
    assert np.abs(data.perplexity - np.exp((sums / counts[:, None]).mean(0))).max() > 0.1
    assert data.attrs["interval"]["documents"] == 5


def test_copies_of_a_window_in_a_document_tell_nothing_new(llama: Any) -> None:
    prompts = text_windows(texts(7, 7, 7), llama, max_tokens=8)[0]
    once = lens_perplexity(llama, prompts, **QUICK).data
    copies = mcr.Prompts.from_tokens(prompts.tokens * 4)
    same = lens_perplexity(llama, copies, documents=[0, 1, 2] * 4, **QUICK).data
    np.testing.assert_allclose(same.perplexity_low, once.perplexity_low, rtol=1e-6)
    np.testing.assert_allclose(same.perplexity_high, once.perplexity_high, rtol=1e-6)


def test_one_document_has_no_interval(llama: Any) -> None:
    data = lens_perplexity(llama, texts(40), max_tokens=8, **QUICK).data
    assert data.sizes["prompt"] == 6
    assert data.perplexity.notnull().all()
    assert data.perplexity_low.isnull().all() and data.perplexity_high.isnull().all()


def test_tuned_lenses_and_interventions_are_used(llama: Any) -> None:
    several = texts(12, 15)
    nothing = mcr.hooks.Translators(torch.zeros(3, 32, 32), torch.zeros(3, 32))
    something = mcr.hooks.Translators(torch.zeros(3, 32, 32), torch.ones(3, 32))
    plain = lens_perplexity(llama, several, **QUICK).data
    zero = lens_perplexity(llama, several, translators=nothing, **QUICK).data
    tuned = lens_perplexity(llama, several, translators=something, **QUICK).data
    edited = lens_perplexity(llama, several, interventions=mcr.ablate_mlp_write([1]), **QUICK).data
    np.testing.assert_allclose(zero.perplexity, plain.perplexity, rtol=1e-5)
    changed = np.abs(tuned.perplexity / plain.perplexity - 1).values
    assert (changed[:3] > 1e-2).all() and changed[3] < 1e-6
    assert tuned.attrs["lens"]["kind"] == "tuned"
    assert abs(float((edited.perplexity / plain.perplexity)[-1]) - 1) > 1e-4


def test_articles_begin_at_titles() -> None:
    lines = ["", " = One = \n", "", " Text = text . \n", " = x and y = \n", "", " = = Part = = \n", ""]
    lines += [" = = = Deep = = = \n", "", " More . \n", "", " = Two words : 2 = \n", "\n", " Text . \n"]
    articles = wikitext_articles(lines)
    assert [article.split("\n")[0].strip() for article in articles] == ["= One =", "= Two words : 2 ="]
    assert "= x and y =" in articles[0] and "= = = Deep = = =" in articles[0]
    assert "".join("".join(articles).split()) == "".join("".join(lines).split())
    assert wikitext_articles(["No title .", "", "= One =", ""])[0].strip() == "No title ."
    assert wikitext_articles([]) == []


def test_wikitext_gets_easier_with_depth(shared_data: Path, bundled_model: Any) -> None:
    text = (shared_data / "wikitext2" / "valid.txt").read_text()
    articles = wikitext_articles(text.split("\n"))
    assert len(articles) == 60
    assert "\n".join(articles).split() == text.split()
    data = lens_perplexity(bundled_model, [a[:1500] for a in articles[:12]], max_tokens=256, **QUICK).data
    perplexity = data.perplexity.values
    assert perplexity[-1] < perplexity[len(perplexity) // 2] < perplexity[0]
    assert (data.perplexity_low < data.perplexity).all() and (data.perplexity < data.perplexity_high).all()


def test_bad_input_is_told_in_one_line(llama: Any) -> None:
    prompts = mcr.Prompts.from_texts(texts(5, 6), llama)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (prompts, {"max_tokens": 5}, "max_tokens is for texts"),
        (prompts, {"documents": [0]}, "1 documents for 2 prompts"),
        (texts(5), {"documents": [0]}, "documents is for prompts"),
        (texts(5), {"max_tokens": 1}, "max_tokens 1: use 2 to 256"),
        (texts(5), {"max_tokens": 257}, "max_tokens 257: use 2 to 256"),
        (texts(5), {"confidence": 2.0}, "confidence 2.0"),
    ]
    for given, options, message in cases:
        with pytest.raises(InputError, match=message) as raised:
            lens_perplexity(llama, given, progress=False, **options)
        assert "\n" not in str(raised.value)
