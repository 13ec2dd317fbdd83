"""A learned sink, as gpt-oss has it: measured as the oracle does, and told wherever a profile is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from families import eager, save_tokenizer, tiny_folder

import mcr_lens as mcr
from mcr_lens.models import model_facts
from mcr_lens.phases import locate_sink
from mcr_lens.results import caveats
from mcr_lens.viz import attention_sinks

PROMPTS = mcr.Prompts.from_tokens([[1, *range(3, 40)], [1, *range(20, 31)]])
# What the learned logit of each layer's heads takes is set by hand: nothing, a little, nearly all.
LOGITS = (-30.0, 0.0, 12.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random gpt-oss whose three layers have learned sinks of different strength."""
    made = tiny_folder("gpt_oss", tmp_path_factory.mktemp("learned"), scale=0.1)
    model = eager(made)
    with torch.no_grad():
        for layer, logit in zip(model.model.layers, LOGITS, strict=True):
            layer.self_attn.sinks.copy_(torch.linspace(-0.5, 0.5, 4) + logit)
    model.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def profile(folder: Path) -> mcr.Profile:
    return mcr.profile(mcr.load_model(folder), PROMPTS, progress=False)


def test_mass_equals_that_of_hugging_face(folder: Path, profile: mcr.Profile) -> None:
    reference = eager(folder)
    for prompt, tokens in enumerate(PROMPTS.tokens):
        with torch.no_grad():
            patterns = reference(torch.tensor([tokens]), output_attentions=True, use_cache=False).attentions
        for layer, pattern in enumerate(patterns):
            expected = 1.0 - pattern[0].double().sum(-1).mean(-1)
            found = profile["learned_sink_mass"].sel(prompt=prompt, layer=layer)
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_larger_logit_multiplies_the_odds_of_every_row(folder: Path, tmp_path: Path) -> None:
    """Taken over not taken is exp(sink) / sum of exp(scores): it grows by exp(step), row for row."""
    step, name, tokens = 1.3, "blocks.0.attn.hook_pattern", PROMPTS.tokens[0]
    rows = []
    for logit in (-1.0, -1.0 + step):
        model = eager(folder)
        with torch.no_grad():
            model.model.layers[0].self_attn.sinks.fill_(logit)
        made = tmp_path / str(logit)
        model.save_pretrained(made)
        save_tokenizer(made)
        loaded, prompts = mcr.load_model(made), mcr.Prompts.from_tokens([tokens])
        kept = 1.0 - mcr.record(loaded, prompts, [name])[name][0].double().sum(-1)
        mass = mcr.profile(loaded, prompts, progress=False)["learned_sink_mass"].sel(prompt=0, layer=0)
        np.testing.assert_allclose(mass, kept.mean(-1), atol=1e-6)
        rows.append(kept / (1.0 - kept))
    np.testing.assert_allclose(rows[1] / rows[0], np.exp(step), rtol=1e-4)


def test_it_grows_with_the_logit(profile: mcr.Profile) -> None:
    mass = profile["learned_sink_mass"].mean("prompt")
    assert float(mass.sel(layer=0).max()) < 1e-6
    assert 0.02 < float(mass.sel(layer=1).min()) and float(mass.sel(layer=1).max()) < 0.9
    assert float(mass.sel(layer=2).min()) > 0.95


def test_it_is_told_wherever_a_profile_is_read(folder: Path, profile: mcr.Profile) -> None:
    mass = profile["learned_sink_mass"]
    assert profile.data.attrs["learned_sink"] is True
    table = profile.summary()
    np.testing.assert_allclose(table.learned_sink_mass[:3], mass.mean(["prompt", "head"]))
    assert "learned_sink_mass" in repr(profile)
    (said,) = [sentence for sentence in caveats(profile) if "learned sink" in sentence]
    largest = float(mass.mean("prompt").max())
    assert f"takes {float(mass.mean()):.0%} of the attention, up to {largest:.0%} of a head" in said
    assert said in profile._repr_html_()
    view = attention_sinks(mcr.load_model(folder), PROMPTS.tokens[0], layer=2)
    assert "A learned sink that is no token takes up to" in view.html(script=False)


def test_it_has_a_row_of_its_own(profile: mcr.Profile) -> None:
    table = locate_sink(profile)
    learned = table[table.sink == "learned"]
    assert learned.layer.tolist() in ([2], [1, 2])
    last = learned.iloc[-1]
    assert last.heads == 1 and last.prompts == 1
    expected = float(profile["learned_sink_mass"].sel(layer=2).mean())
    assert last.attention == pytest.approx(expected)
    assert all(pd.isna(place) for name in ("position", "token") for place in learned[name])
    assert 2 not in table[table.sink == "token"].layer.tolist()


def test_models_without_one_say_nothing_of_it(llama_profile: mcr.Profile) -> None:
    assert "learned_sink_mass" not in llama_profile.summary()
    assert not any("learned sink" in sentence for sentence in caveats(llama_profile))
    assert "learned" not in locate_sink(llama_profile, 0.01, min_prompts=0.0).sink.tolist()


def test_strong_and_weak_logits_pass_the_self_check(folder: Path) -> None:
    facts = model_facts(mcr.load_model(folder))
    assert facts.learned_sink and facts.failed_checks == {}
