"""Logits that overflow though the states they are read out of are finite: named, and in no number."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from backends import BACKENDS
from families import tiny_folder
from json_task import json_task
from shell import run
from transformers import AutoModelForCausalLM

import mcr_lens as mcr
from mcr_lens.experiments import PromptPairs, activation_patching, kl_divergence
from mcr_lens.experiments.tasks import ChoiceResult
from mcr_lens.hooks.lenses.continuation import Answer, AnswerLens
from mcr_lens.not_finite import not_finite_note

TOKENS = [[1, *range(3, 13)], [1, *range(20, 32)], [1, *range(40, 49)], [1, 5, 9]]
PROMPTS = mcr.Prompts.from_tokens(TOKENS)
LOUD = 59
QUIET = pytest.mark.filterwarnings("ignore::mcr_lens.not_finite.NotFiniteWarning")


@dataclass(frozen=True)
class Loud:
    """A float16 model one of whose tokens has logits near the end of float16."""

    model: Any
    folder: Path
    broken: list[np.ndarray]  # of each prompt, (depth, position)

    def first(self) -> np.ndarray:
        """First broken position of every prompt and depth, -1 for none."""
        firsts = [np.where(each.any(1), each.argmax(1), -1) for each in self.broken]
        return np.stack(firsts)


@pytest.fixture(scope="module")
def loud_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_folder("llama", tmp_path_factory.mktemp("loud"), tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    found = [logits_by_depth(model, tokens)[..., LOUD].abs() for tokens in TOKENS]
    values = torch.cat([each.flatten() for each in found]).sort().values
    # Where float16 ends lies in the widest gap that leaves a prompt whole, and breaks the end of another.
    end = 0.0
    for at in (values[1:] / values[:-1]).argsort(descending=True).tolist():
        end = float((values[at] * values[at + 1]).sqrt())
        broken = [each > end for each in found]
        if not all(each.any() for each in broken) and any(each[-1, -1] for each in broken):
            break
    model.lm_head.weight.data[LOUD] *= 65_504 / end
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=BACKENDS)
def loud(request: pytest.FixtureRequest, loud_folder: Path) -> Loud:
    exact = AutoModelForCausalLM.from_pretrained(loud_folder).double()
    largest = [logits_by_depth(exact, tokens).abs().amax(-1).numpy() for tokens in TOKENS]
    broken = [each > 65_504 for each in largest]
    # Nothing lies so near the end that rounding decides.
    assert not any(((each > 65_200) & (each < 65_800)).any() for each in largest)
    assert any(each.any() for each in broken) and not all(each.any() for each in broken)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mcr.load_model(loud_folder, backend=request.param, dtype=torch.float16)
    return Loud(model, loud_folder, broken)


def logits_by_depth(model: Any, tokens: list[int]) -> torch.Tensor:
    """(depth, position, vocabulary), by Hugging Face alone."""
    with torch.no_grad():
        states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        # Transformers has normed the last one already.
        normed = [*(model.model.norm(state) for state in states[:-1]), states[-1]]
        return torch.stack([model.lm_head(state)[0] for state in normed])


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"chunk": 4}], ids=str)
def test_a_lens_names_them_and_leaves_them_out(loud: Loud, options: dict[str, Any]) -> None:
    first = loud.first()
    with pytest.warns(RuntimeWarning, match="Inf or NaN in logits read out of finite states of") as told:
        data = mcr.logit_lens(loud.model, PROMPTS, top_k=2, per_token=True, progress=False, **options).data
    assert (data.not_finite_depth == -1).all()
    depth = int((first >= 0).any(0).argmax())
    prompt = int((first[:, depth] >= 0).argmax())
    named = f"of {(first >= 0).any(1).sum()} of 4 prompts, first in prompt {prompt} at depth {depth} "
    texts = [str(each.message) for each in told if "Inf or NaN" in str(each.message)]
    assert len(texts) == 1 and named in texts[0]
    assert "65,504" in texts[0] and not_finite_note(data, "float16") == texts[0]
    for i, broken in enumerate(loud.broken):
        rows = data.isel(prompt=i, position=slice(broken.shape[1]))
        np.testing.assert_array_equal(rows.lens_entropy_by_token.isnull(), broken)
        np.testing.assert_array_equal(rows.top_token.isel(k=0) < 0, broken)
        np.testing.assert_array_equal(rows.target_rank_by_token.isnull()[:, :-1], broken[:, :-1])
        np.testing.assert_array_equal(rows.lens_kl_by_token.isnull(), broken | broken[-1])
        np.testing.assert_array_equal(rows.lens_loss.isnull(), broken.any(1))
        np.testing.assert_array_equal(rows.lens_entropy.isnull(), broken.any(1))
        np.testing.assert_array_equal(rows.target_rank.isnull(), broken.any(1))


@QUIET
def test_the_summary_counts_the_prompts_that_are_left(loud: Loud) -> None:
    data = mcr.logit_lens(loud.model, PROMPTS, progress=False).data
    summary = mcr.experiments.lens_summary(data)
    sound = loud.first() < 0
    assert summary.prompts.tolist() == sound.sum(0).tolist()
    assert summary.attrs["not_finite"] == not_finite_note(data, "float16")
    depth = int((~sound).any(0).argmax())
    rest = data.isel(prompt=sound[:, depth])
    assert summary.entropy[depth] == pytest.approx(mcr.experiments.lens_summary(rest).entropy[depth])


@QUIET
def test_perplexity_leaves_such_windows_out(loud: Loud) -> None:
    data = mcr.tasks.lens_perplexity(loud.model, PROMPTS, progress=False, n_resamples=9).data
    lost = data.lens_loss.isnull()
    assert lost.any()
    for depth in data.depth.values:
        kept = [tokens for tokens, gone in zip(TOKENS, lost.sel(depth=depth).values, strict=True) if not gone]
        rest = mcr.tasks.lens_perplexity(
            loud.model, mcr.Prompts.from_tokens(kept), progress=False, n_resamples=9
        ).data
        np.testing.assert_allclose(data.perplexity.sel(depth=depth), rest.perplexity.sel(depth=depth), 1e-3)


@QUIET
def test_answers_have_no_likelihood_there(loud: Loud) -> None:
    answers = [
        Answer(i, at, (7, 9)[: 1 + (at + 2 < len(tokens))])
        for i, tokens in enumerate(TOKENS)
        for at in range(1, len(tokens))
    ]
    n_depths = loud.model.cfg.n_layers + 1
    lens = AnswerLens(loud.model, len(TOKENS), answers, range(n_depths))
    data = mcr.measure(loud.model, PROMPTS, [lens], progress=False)
    rows = [loud.broken[each.prompt][:, each.position :][:, : len(each.tokens)] for each in answers]
    expected = np.stack([row.any(1) for row in rows])
    np.testing.assert_array_equal(data.log_likelihood.isnull(), expected)
    assert not data.is_greedy.values[expected].any()


@QUIET
def test_a_question_is_neither_right_nor_wrong_there(loud: Loud, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    rows = [f'{{"q": "{" ".join(f"w{t - 3}" for t in t_s[1:])}", "c": ["w1", "w2"]}}\n' for t_s in TOKENS]
    task = json_task("loud", tmp_path, rows, target="0")
    data = mcr.tasks.multiple_choice(loud.model, task, progress=False).data
    begins = data.not_finite_depth
    lost = ((begins >= 0) & (data.depth >= begins)).transpose("document", "depth")
    assert lost.any() and not lost.all()
    np.testing.assert_array_equal(data.acc.isnull(), lost)
    np.testing.assert_array_equal(np.isnan(data.attrs["results"]["loud"]["acc,none"]), lost.any("document"))


@QUIET
def test_a_summary_of_no_question_is_refused() -> None:
    acc = np.ones((3, 4))
    acc[:, 2] = np.nan
    data = xr.Dataset(
        {"acc": (("document", "depth"), acc)}, {"task": ("document", ["a"] * 3), "depth": range(4)}
    )
    with pytest.raises(mcr.InputError, match="metric 'acc': no document has it at every depth"):
        ChoiceResult(data).summary()


@QUIET
def test_predictions_are_drawn_without_a_token_there(loud: Loud) -> None:
    text = " ".join(f"w{token - 3}" for token in TOKENS[1][1:])
    drawn = str(mcr.viz.lens_tokens(loud.model, text)._repr_html_())
    assert drawn.count("Inf or NaN in the logits") == loud.broken[1].sum()


@QUIET
def test_patching_names_the_prompts_without_a_metric(loud: Loud) -> None:
    ends = [broken[-1, -1] for broken in loud.broken]
    assert any(ends) and not all(ends)
    tokens = PROMPTS.tokens
    corrupt = mcr.Prompts.from_tokens([(1, 33, *each[2:]) for each in tokens])
    n = len(tokens)
    pairs = PromptPairs(PROMPTS, corrupt, answers=(LOUD,) * n, wrong_answers=(4,) * n)
    with pytest.warns(
        RuntimeWarning, match="logit_difference rests on Inf or NaN for . of 4 prompts, first"
    ) as told:
        data = activation_patching(loud.model, pairs, over=["layer"], positions=[-1], progress=False).data
    np.testing.assert_array_equal(data.clean.isnull(), ends)
    assert not np.isinf(data.patched).any() and not np.isinf(data.corrupt).any()
    assert data.recovered.sel(prompt=np.array(ends)).isnull().all()
    first = int((data.clean.isnull() | data.corrupt.isnull()).argmax("prompt"))
    run_of = "clean" if data.clean.isnull()[first] else "corrupt"
    assert f"first for prompt {first} ({run_of} run)" in str(told[0].message)
    # To minus infinity an overflow costs a probability nothing: it is 0 either way.
    data = activation_patching(
        loud.model, pairs, over=["layer"], positions=[-1], metric=kl_divergence, progress=False
    ).data
    assert (data.clean.isnull() | (data.clean == 0)).all()


@QUIET
def test_nothing_is_fitted_to_what_is_broken(loud: Loud) -> None:
    with pytest.raises(mcr.InputError, match=r"model's own logits: .* 65,504"):
        mcr.experiments.fit_tuned_lens(loud.model, PROMPTS, steps=2, progress=False)


@QUIET
def test_the_command_line_and_the_report_tell(loud_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(
        "".join(" ".join(f"w{t - 3}" for t in row[1:]) + "\n" for row in TOKENS)
    )
    out = tmp_path / "lens.nc"
    result = run("lens", loud_folder, tmp_path / "prompts.txt", "--dtype", "float16", "--out", out)
    assert result.exit_code == 0, result.output
    assert "Beware: Inf or NaN in logits read out of finite states" in " ".join(result.stdout.split())
    page = tmp_path / "page.html"
    assert run("report", out, "--out", page).exit_code == 0
    assert "Inf or NaN in logits read out of finite states" in page.read_text()
