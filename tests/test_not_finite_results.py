"""Lenses, studies, tasks, sweeps and reports name a prompt with Inf or NaN and leave it out of means."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS, needs_hooked_transformer
from families import save_tokenizer, tiny_folder
from json_task import json_task
from planted import BOS, planted_folder, planted_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

import mcr_lens as mcr
from mcr_lens.errors import warnings_about
from mcr_lens.experiments import PromptPairs, activation_patching
from mcr_lens.experiments.tasks import ChoiceResult
from mcr_lens.hooks import PooledStates, current_context
from mcr_lens.not_finite import not_finite_note

PROMPTS = mcr.Prompts.from_tokens([[1, *range(3, 30)], [1, *range(20, 42)], [1, *range(30, 54)]])
LAYER, POSITION, BROKEN = 1, 7, 2
QUICK: dict[str, Any] = {"progress": False, "n_resamples": 99}
NAMED = r"1 of 3 prompts, first in prompt 2 at depth 2 \(which layer 1 leaves behind\)"


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, llama_folder: Path) -> Any:
    return mcr.load_model(llama_folder, backend=request.param)


def plant(is_broken: Callable[[int, Any], bool] = lambda prompt, _: prompt == BROKEN) -> list[Any]:
    """Inf in one component of one token's MLP write, of the prompts that are chosen."""

    def edit(write: torch.Tensor, hook: Any) -> torch.Tensor:
        context = current_context()
        assert context.tokens is not None
        row = POSITION - context.offset
        edited = write.clone()
        for place, prompt in enumerate(context.prompts or ()):
            if is_broken(prompt, context.tokens[place]) and 0 <= row < write.shape[1]:
                edited[place, row, 5] = torch.inf
        return edited

    return [(f"blocks.{LAYER}.hook_mlp_out", edit)]


@pytest.mark.parametrize("options", [{}, {"chunk": 4}, {"batch_size": 1}], ids=str)
def test_a_lens_names_the_broken_prompt_and_leaves_it_out(model: Any, options: dict[str, Any]) -> None:
    settings = {"progress": False, "top_k": 2, "per_token": True, **options}
    sound = mcr.logit_lens(model, PROMPTS, **settings).data
    with pytest.warns(RuntimeWarning, match=NAMED):
        broken = mcr.logit_lens(model, PROMPTS, interventions=plant(), **settings).data
    assert sound.not_finite_depth.values.tolist() == [-1, -1, -1]
    assert broken.not_finite_depth.values.tolist() == [-1, -1, LAYER + 1]
    for name, values in broken.data_vars.items():
        kept = {"prompt": [0, 1]}
        np.testing.assert_allclose(values.sel(kept), sound[name].sel(kept), 1e-4, 1e-5, err_msg=str(name))
        # The KL looks at the last depth, which is broken.
        if name not in ("lens_kl", "lens_kl_by_token"):
            before = {"prompt": BROKEN, "depth": slice(None, LAYER)}
            np.testing.assert_allclose(values.sel(before), sound[name].sel(before), 1e-4, 1e-5)
        lost = values.sel(prompt=BROKEN, depth=slice(LAYER + 1, None))
        assert (lost == -1).all() if name == "top_token" else lost.isnull().all(), name
    summary = mcr.experiments.lens_summary(broken)
    rest = mcr.experiments.lens_summary(sound.isel(prompt=[0, 1]))
    np.testing.assert_allclose(summary.loss[LAYER + 1 :], rest.loss[LAYER + 1 :], 1e-5)
    assert summary.prompts.tolist() == [3, 3, *[2] * (len(summary) - 2)]
    assert summary.attrs["not_finite"] == not_finite_note(broken)
    assert "prompts" not in mcr.experiments.lens_summary(sound)


def test_attention_that_a_hooked_transformer_loses_is_named_by_a_lens(model: Any) -> None:
    def edit(scores: torch.Tensor, hook: Any) -> torch.Tensor:
        edited = scores.clone()
        edited[(current_context().prompts or ()).index(BROKEN), 1, POSITION, 2] = torch.nan
        return edited

    hooks = [(f"blocks.{LAYER}.attn.hook_attn_scores", edit)]
    with pytest.warns(RuntimeWarning, match=NAMED):
        data = mcr.logit_lens(model, PROMPTS, interventions=hooks, progress=False).data
    assert data.lens_loss.sel(prompt=BROKEN, depth=slice(LAYER + 1, None)).isnull().all()


def test_some_depths_are_enough_to_name_the_first(model: Any) -> None:
    """The broken depth is not one of those that are read."""
    observer = PooledStates(model, "mean", depths=[0, 3])
    with pytest.warns(RuntimeWarning, match=NAMED):
        data = mcr.measure(model, PROMPTS, [observer], interventions=plant(), progress=False)
    assert data.depth.values.tolist() == [0, 3]
    assert data.pooled_state.sel(depth=3).isnull().any("dimension").values.tolist() == [[False]] * 2 + [
        [True]
    ]


def test_perplexity_leaves_broken_windows_out(model: Any) -> None:
    sound = mcr.tasks.lens_perplexity(model, PROMPTS, **QUICK).data
    rest = mcr.Prompts.from_tokens(list(PROMPTS.tokens[:2]))
    others = mcr.tasks.lens_perplexity(model, rest, **QUICK).data
    with pytest.warns(RuntimeWarning, match=NAMED):
        broken = mcr.tasks.lens_perplexity(model, PROMPTS, interventions=plant(), **QUICK).data
    after = slice(LAYER + 1, None)
    np.testing.assert_allclose(broken.perplexity.sel(depth=after), others.perplexity.sel(depth=after), 1e-4)
    np.testing.assert_allclose(broken.perplexity[: LAYER + 1], sound.perplexity[: LAYER + 1], 1e-4)
    use = mcr.experiments.PerplexityResult(broken).uses()[0]
    np.testing.assert_allclose(use.values, mcr.experiments.PerplexityResult(others).uses()[0].values, 1e-4)


@pytest.mark.filterwarnings("ignore:Inf or NaN:RuntimeWarning")
def test_no_window_left_is_told(model: Any) -> None:
    data = mcr.tasks.lens_perplexity(model, PROMPTS, interventions=plant(lambda *_: True), **QUICK).data
    assert data.perplexity.isnull().values.tolist() == [depth > LAYER for depth in data.depth.values]
    with pytest.raises(mcr.InputError, match="no window has a loss at every depth"):
        mcr.experiments.PerplexityResult(data).uses()


@pytest.mark.filterwarnings("ignore:Inf or NaN:RuntimeWarning")
def test_probes_and_encoders_refuse_and_name_it(model: Any) -> None:
    pytest.importorskip("sklearn")
    tokens = [[1, *range(i, i + 20)] for i in range(3, 13)]
    options: dict[str, Any] = {"folds": 2, "C": 1.0, "pooling": "mean", "progress": False}
    prompts = mcr.Prompts.from_tokens(tokens)
    with pytest.raises(mcr.InputError, match="1 states of pooling 'mean' at depth 2 are not finite"):
        mcr.tasks.linear_probes(model, prompts, [0, 1] * 5, interventions=plant(), **options)
    encoder = mcr.tasks.DepthEncoder(model, 3, interventions=plant(lambda *_: True))
    with pytest.raises(mcr.InputError, match="embed nothing"):
        encoder.encode([{"text": ["w1 w2 w3 w4 w5 w6 w7 w8 w9"]}])


def test_a_broken_question_is_neither_right_nor_wrong(model: Any, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    marked = model.tokenizer.encode("w40", add_special_tokens=False)[-1]
    rows = [f'{{"q": "w{i} w4 w5 w6 w7 w8 w9 w10", "c": ["w1", "w2 w3"], "gold": 0}}\n' for i in (11, 40, 12)]
    task = json_task("broken", tmp_path, rows, target="gold")
    sound = mcr.tasks.multiple_choice(model, task, progress=False).data
    edit = plant(lambda _, tokens: marked in tokens)
    with pytest.warns(RuntimeWarning, match=r"at depth 2 \(which layer 1 leaves behind\)"):
        broken = mcr.tasks.multiple_choice(model, task, interventions=edit, progress=False).data
    assert broken.not_finite_depth.values.tolist() == [-1, LAYER + 1, -1]
    lost = broken.isel(document=1).sel(depth=slice(LAYER + 1, None))
    assert lost.acc.isnull().all() and lost.log_likelihood.isnull().all()
    rest = [0, 2]
    np.testing.assert_array_equal(broken.acc.isel(document=rest), sound.acc.isel(document=rest))
    np.testing.assert_array_equal(
        broken.acc.isel(depth=slice(LAYER + 1)), sound.acc.isel(depth=slice(LAYER + 1))
    )
    told = broken.attrs["results"]["broken"]["acc,none"]
    assert np.isnan(told).tolist() == [depth > LAYER for depth in broken.depth.values]
    assert ChoiceResult(broken).summary(n_resamples=9).n.tolist() == [2] * broken.sizes["depth"]


@pytest.fixture(scope="module")
def broken_study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mcr.experiments.AblationStudy]:
    """One prompt of twelve, broken by a hook that its user has left on the model."""
    options = {"emergence": (1,), "dissipation": (5,), "sink_layers": (2, 3, 4)}
    model: Any = mcr.load_model(planted_folder(tmp_path_factory.mktemp("study"), **options))
    rng = np.random.default_rng(0)
    tokens = [[1, *rng.integers(3, 64, length).tolist()] for length in rng.integers(10, 24, 12)]
    ((_, edit),) = plant()
    model.add_hook("blocks.2.hook_mlp_out", edit, is_permanent=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield mcr.ablation_study(
            model, mcr.Prompts.from_tokens(tokens), doses=(1,), arms=("write", "block"), progress=False
        )


def test_a_study_leaves_the_broken_prompt_out_of_every_comparison(
    broken_study: mcr.experiments.AblationStudy,
) -> None:
    outcomes = broken_study.outcomes()
    for name, values in outcomes.items():
        missing = values.isnull().any(["arm", "dose"]).values
        assert np.flatnonzero(missing).tolist() == [BROKEN], name
    rest = [i for i in range(12) if i != BROKEN]
    alone = mcr.experiments.AblationStudy(broken_study.data.isel(prompt=rest)).effects()
    columns = ["effect", "low", "high", "p", "there", "against"]
    found = broken_study.effects()
    np.testing.assert_allclose(found[columns].to_numpy(float), alone[columns].to_numpy(float), 1e-6, 1e-9)
    (note,) = broken_study.caveats()
    assert "1 of 12 prompts, first in prompt 2 at depth 3 " in note
    assert note in repr(broken_study) and note in broken_study._repr_html_()


def test_a_studys_warning_names_arm_and_dose(tmp_path: Path) -> None:
    model: Any = mcr.load_model(planted_folder(tmp_path, emergence=(1,), dissipation=(5,)))
    ((_, edit),) = plant()
    model.add_hook("blocks.2.hook_mlp_out", edit, is_permanent=True)
    rng = np.random.default_rng(1)
    prompts = mcr.Prompts.from_tokens([[1, *rng.integers(3, 64, 12).tolist()] for _ in range(4)])
    with pytest.warns(RuntimeWarning) as told:
        mcr.ablation_study(model, prompts, doses=(0.5, 1), arms=("write",), progress=False)
    texts = [str(each.message) for each in told if "Inf or NaN" in str(each.message)]
    assert texts[0].startswith("Inf or NaN in the residual stream of 1 of 4 prompts")
    assert [text.split(":")[0] for text in texts[1:]] == [
        "arm write, layer 1, dose 0.5",
        "arm write, layer 1, dose 1",
    ]


def overflowing(folder: Path) -> tuple[Path, str]:
    """A float16 model that overflows at word w40 alone, and a text with it."""
    planted = planted_llama(emergence=(1, 3), dissipation=(), ratio=100_000.0)
    embedding = planted.model.embed_tokens.weight.data
    embedding[[BOS, 40]] = embedding[[40, BOS]]
    planted.save_pretrained(folder)
    save_tokenizer(folder)
    return folder, AutoTokenizer.from_pretrained(folder).decode([5, 6, 40, *range(9, 25)])


GRID = """\
arms = ["baseline"]
models = [{{source = "{model}", dtype = "float16", name = "half"}}]
prompts = [{{source = "{prompts}", name = "marked"}}]
"""


def test_a_sweep_names_the_cell(tmp_path: Path) -> None:
    folder, text = overflowing(tmp_path / "model")
    (tmp_path / "p.txt").write_text(f"{text}\n")
    (tmp_path / "grid.toml").write_text(GRID.format(model=folder, prompts=tmp_path / "p.txt"))
    with pytest.warns(RuntimeWarning, match=r"half--marked--baseline--\w+: Inf or NaN .* depth 4 .*65,504"):
        table = mcr.sweeps.sweep(
            mcr.sweeps.read_grid(tmp_path / "grid.toml"), tmp_path / "out", progress=False
        )
    assert table.state.tolist() == ["done"]


def test_a_report_names_them_all(
    model: Any, broken_study: mcr.experiments.AblationStudy, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        profile = mcr.profile(model, PROMPTS, interventions=plant(), progress=False)
        lens = mcr.logit_lens(model, PROMPTS, interventions=plant(), progress=False).data
        sound = mcr.logit_lens(model, PROMPTS, progress=False).data
        text = mcr.tasks.lens_perplexity(model, PROMPTS, interventions=plant(), **QUICK).data
    named = "1 of 3 prompts, first in prompt 2 at depth 2"
    results = {"profile": profile, "lens": lens, "tasks": text, "study": broken_study, "sound": sound}
    for name, result in results.items():
        page = mcr.viz.report(result, tmp_path / f"{name}.html").read_text()
        expected = "1 of 12 prompts, first in prompt 2 at depth 3" if name == "study" else named
        assert (expected in page) == (name != "sound"), name
        assert page.count('class="note"') >= 1 or name == "sound"


def test_the_note_of_a_stack_names_which(model: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        parts = [mcr.profile(model, PROMPTS, progress=False)]
        parts += [mcr.profile(model, PROMPTS, interventions=plant(), progress=False)]
    stack = mcr.Profile.concat(parts, "arm", ["as it is", "broken"])
    note = str(not_finite_note(stack.data))
    assert "1 of 3 prompts, first in prompt 2 at depth 2" in note
    assert "(which layer 1 leaves behind), arm broken: what rests" in note


def test_warnings_keep_their_kind_and_what_filters_do() -> None:
    with pytest.warns(UserWarning, match=r"^cell: odd$"), warnings_about("cell"):
        warnings.warn("odd", UserWarning, stacklevel=1)
    with pytest.warns(DeprecationWarning, match=r"^old$"), warnings_about("cell"):
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match=r"^Inf$"), warnings_about("cell"):
            warnings.warn("Inf", RuntimeWarning, stacklevel=1)

    def fails() -> None:
        with warnings_about("cell"):
            warnings.warn("Inf", RuntimeWarning, stacklevel=1)
            raise KeyError

    with pytest.warns(RuntimeWarning, match="cell: Inf"), pytest.raises(KeyError):
        fails()


@pytest.fixture(scope="module")
def shouting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A HookedTransformer in float16 whose attention scores overflow in a prompt with late tokens."""
    folder = tiny_folder("llama", tmp_path_factory.mktemp("shouting"))
    loud = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name in ("q_proj", "k_proj"):
            getattr(loud.model.layers[1].self_attn, name).weight.mul_(60)
    loud.save_pretrained(folder)
    return mcr.load_model(folder, backend="hooked_transformer", dtype="float16")


SHOUTED = ((1, *range(3, 13)), (1, *range(20, 32)), (1, *range(40, 49)))


@needs_hooked_transformer
@pytest.mark.filterwarnings("ignore:Inf or NaN:RuntimeWarning")
def test_edits_of_something_else_hide_no_lost_attention(shouting: Any) -> None:
    prompts = mcr.Prompts.from_tokens(SHOUTED)
    alone = mcr.profile(shouting, prompts, progress=False).data
    assert alone.not_finite_depth.values.tolist() == [-1, 2, -1]
    idle = mcr.ablate_mlp_write(0, 0, dose=0.0)
    edited = mcr.profile(shouting, prompts, interventions=idle, progress=False).data
    np.testing.assert_array_equal(edited.not_finite_depth, alone.not_finite_depth)
    np.testing.assert_array_equal(edited.norm_ratio, alone.norm_ratio)
    lens = mcr.logit_lens(shouting, prompts, interventions=idle, progress=False).data
    np.testing.assert_array_equal(lens.not_finite_depth, alone.not_finite_depth)
    # Where an edit gives a whole pattern, nothing is left of what was lost; another layer's hides nothing.
    for layer, begins in ((1, [-1, -1, -1]), (2, [-1, 2, -1])):
        empty = [(f"blocks.{layer}.attn.hook_pattern", lambda pattern, hook: torch.zeros_like(pattern))]
        emptied = mcr.profile(shouting, prompts, interventions=empty, progress=False)
        assert emptied.data.not_finite_depth.values.tolist() == begins


@needs_hooked_transformer
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.filterwarnings("ignore:Inf or NaN:RuntimeWarning")
def test_patching_takes_no_metric_from_a_broken_run(shouting: Any, direction: Any) -> None:
    corrupt = mcr.Prompts.from_tokens([(1, 33, *tokens[2:]) for tokens in SHOUTED])
    pairs = PromptPairs(mcr.Prompts.from_tokens(SHOUTED), corrupt, answers=(7,) * 3, wrong_answers=(4,) * 3)
    with pytest.warns(
        RuntimeWarning, match=r"logit_difference rests on Inf or NaN for .* prompt 1 \(clean run"
    ):
        found = activation_patching(
            shouting, pairs, over=["layer"], positions=[-1], direction=direction, progress=False
        ).data
    assert found.clean.isnull().values.tolist() == [False, True, False]
