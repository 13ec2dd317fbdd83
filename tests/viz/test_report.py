"""A report says what the results say, escapes everything, and refuses in one line what it cannot read."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.results import findings
from mcr_lens.viz import report
from mcr_lens.viz._report.html import figure_json, plain

ATTACK = "</script><img src=x onerror='window.bad=1'>\u202e\u2028\ud800"
RATIO, ENTROPY = [1, 1, 200, 210, 3], [0.9, 0.9, 0.2, 0.1, 0.8]


def valley(**attributes: Any) -> mcr.Profile:
    scores = np.random.default_rng(0).uniform(size=(9, 4, 4))
    return made_profile(RATIO, ENTROPY, sink_score=scores, n_prompts=9, **attributes)


@pytest.fixture(scope="module")
def study(bundled_model: Any) -> mcr.experiments.AblationStudy:
    prompts = mcr.Prompts.from_texts(mcr.prompts.word_problems(8), bundled_model)
    return mcr.ablation_study(bundled_model, prompts, doses=[0.0, 1.0])


class Page(HTMLParser):
    """What a browser would make of a page: elements outside scripts, and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside: str | None = None
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def figures(self) -> list[dict[str, Any]]:
        found = re.findall(r'<script type="application/json">(.*?)</script>', self.source, re.DOTALL)
        return [json.loads(one) for one in found]


def written(runs: Any, folder: Path, **options: Any) -> Page:
    return Page(report(runs, folder / "report.html", **options))


def test_a_profile_is_told_in_words_first(tmp_path: Path) -> None:
    profile = valley()
    page = written(profile.save(tmp_path / "run.nc"), tmp_path)
    opening = page.text[: page.text.index("How it was made", page.text.index("Strongest sinks"))]
    for sentence in findings(profile):
        assert " ".join(sentence.split()) in opening
    assert page.text.index(findings(profile)[0]) < page.text.index("Strongest sinks")
    # Curves, bounds, the map of sink scores and those behind the fold.
    assert len(page.figures) >= 4
    strongest = profile["sink_score"].mean("prompt")
    layer, head = divmod(int(strongest.values.argmax()), 4)
    assert f"layer {layer}, head {head}: {float(strongest.max()):.2f}" in page.text


def test_intervals_of_the_phases_are_told(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    profile = valley()
    found = profile.phases().intervals
    assert found is not None
    page = written(profile, tmp_path)
    assert f"compression begins at depth {found.begins}" in page.text
    assert "3 prompts: intervals over fewer" in written(llama_profile, tmp_path).text


def test_how_it_was_made_is_told(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    page = written(llama_profile.save(tmp_path / "made.nc"), tmp_path)
    made = llama_profile.data.attrs
    for part in (made["prompts"]["digest"], made["versions"]["torch"], made["backend"], "made.nc"):
        assert part in page.text


def test_the_page_asks_for_nothing_and_carries_each_library_once(
    llama_profile: mcr.Profile, tmp_path: Path
) -> None:
    page = written(llama_profile, tmp_path)
    for _, attributes in page.tags:
        for name in ("src", "srcset", "data", "action"):
            assert name not in attributes
        link = attributes.get("href") or "#"
        assert link.startswith(("#", "data:"))
    assert page.source.count("plotly.js v") == 1
    assert "connect-src" not in page.source
    assert "default-src 'none'" in page.source
    assert "mathjax" not in "".join(page.words).lower()


def test_numbers_in_figures_are_not_prompts_by_prompts(tmp_path: Path) -> None:
    """A large model stays small: means are drawn, not every prompt."""
    scores = np.random.default_rng(0).uniform(size=(256, 48, 64))
    ratio = np.concatenate([[1, 1], np.full(40, 300.0), np.full(7, 3.0)])
    entropy = np.concatenate([[0.9, 0.9], np.full(40, 0.1), np.full(7, 0.8)])
    large = made_profile(ratio.tolist(), entropy.tolist(), sink_score=scores, n_prompts=256)
    path = report(large.save(tmp_path / "large.nc"), tmp_path / "large.html")
    assert path.stat().st_size < 6_000_000


def test_the_bundled_model_shows_its_heads(bundled_model: Any, tmp_path: Path) -> None:
    prompts = mcr.Prompts.from_texts(mcr.prompts.word_problems(4), bundled_model)
    measured = mcr.profile(bundled_model, prompts, progress=False)
    path = report(measured.save(tmp_path / "tiny.nc"), tmp_path / "tiny.html")
    assert path.stat().st_size < 8_000_000
    page = Page(path)
    layer = int(measured["sink_score"].mean(["prompt", "head"]).values.argmax())
    assert f"tiny, layer {layer}: attention heads" in page.text
    assert sum("H4sI" in script for script in page.scripts) == 1  # the packed script of circuitsvis
    own = written(measured, tmp_path, model=bundled_model, prompt="Zebras drink 7 cups.")
    assert "the prompt that was given" in own.text and "Z" in own.text


def test_a_model_that_is_not_at_hand_is_named_and_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcr_lens.models.load_model", lambda *a, **k: pytest.fail("it was loaded"))
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "pytorch_model.bin").touch()
    monkeypatch.chdir(tmp_path)
    names = ["gpt2", str(tmp_path / "evil"), "evil", "//host/share", "x" * 9000, "/" + "x" * 9000, ATTACK]
    runs = [valley(model=name) for name in names]
    assert "gpt2 was not loaded unasked" in written(runs, tmp_path).text
    with pytest.raises(mcr.InputError, match="name it with model="):
        written(valley(model="gpt2"), tmp_path, prompt="A text.")


def test_a_folder_of_weights_on_this_machine_is_looked_at(
    llama_folder: Path, llama: Any, tmp_path: Path
) -> None:
    prompts = mcr.Prompts.from_tokens([[1, *range(3, 15)], [1, *range(20, 26)]])
    measured = mcr.profile(llama, prompts, progress=False)
    assert measured.data.attrs["model"] == str(llama_folder)
    assert "attention heads" in written(measured, tmp_path).text


def test_several_profiles_are_compared(tmp_path: Path) -> None:
    first = valley(model="org/small").save(tmp_path / "a.nc")
    second = made_profile([1.0] * 8, n_prompts=9, model="org/large").save(tmp_path / "b.nc")
    page = written([first, second], tmp_path)
    curves = page.figures[0]
    names = {trace.get("name") for trace in curves["data"]}
    assert {"org/small", "org/large"} <= names
    assert curves["layout"]["xaxis5"]["title"]["text"] == "relative depth"  # five depths and eight
    assert "2 profiles" in page.text
    # Each by itself too, over its depths.
    own = [figure for figure in page.figures[1:] if "0 = embeddings" in str(figure["layout"].get("xaxis5"))]
    assert any(figure["layout"].get("shapes") for figure in own)
    for phrase in (valley().phases(confidence=None).headline, "no compression phase"):
        assert phrase in page.text


def test_runs_of_one_model_get_different_names(tmp_path: Path) -> None:
    files = [valley().save(tmp_path / f"{name}.nc") for name in ("alpha", "beta")]
    text = written(files, tmp_path).text
    assert "made by hand (alpha)" in text and "made by hand (beta)" in text
    folder = written(tmp_path, tmp_path / "out").text  # the folder of both
    assert "made by hand (alpha)" in folder
    numbered = written([valley(), valley()], tmp_path).text
    assert "made by hand (1)" in numbered and "made by hand (2)" in numbered


def test_a_stack_of_models_is_taken_apart(tmp_path: Path) -> None:
    stack = mcr.Profile.concat([valley(), made_profile([1.0] * 8, n_prompts=9)], "model", ["one", "two"])
    page = written(stack.save(tmp_path / "stack.nc"), tmp_path)
    names = {trace.get("name") for trace in page.figures[0]["data"]}
    assert {"one", "two"} <= names
    lengths = {
        trace["name"]: trace["x"] for trace in page.figures[0]["data"] if trace.get("name") in ("one", "two")
    }
    assert lengths["one"] != lengths["two"]


def test_an_ablation_study_tells_its_claims(study: mcr.experiments.AblationStudy, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    study.save(tmp_path / "study" / "study.nc")
    page = written(tmp_path / "study", tmp_path)
    for claim in study.claims():
        assert claim.question in page.text
        assert " ".join(claim.why.split()) in page.text
    verdicts = [attributes.get("class") for tag, attributes in page.tags if tag == "span"]
    wanted = [f"verdict {claim.verdict.replace(' ', '-')}" for claim in study.claims()]
    assert [each for each in verdicts if each and each.startswith("verdict")] == wanted


def test_a_lens_and_a_training_folder(bundled_model: Any, tmp_path: Path) -> None:
    prompts = mcr.Prompts.from_texts(mcr.prompts.word_problems(4), bundled_model)
    lens = mcr.logit_lens(bundled_model, prompts, progress=False).save(tmp_path / "lens.nc")
    run = mcr.experiments.profile_training("tiny", prompts, [0, 20000], out=tmp_path / "run", progress=False)
    page = written([lens, tmp_path / "run"], tmp_path)
    assert "the loss on the next token is" in page.text
    for sentence in str(mcr.experiments.appearance(run)).split("\n"):
        assert sentence in page.text


def test_tasks_stand_over_the_phases_of_the_same_model(bundled_model: Any, tmp_path: Path) -> None:
    texts = mcr.prompts.word_problems(6)
    perplexity = mcr.tasks.lens_perplexity(bundled_model, texts, progress=False)
    prompts = mcr.Prompts.from_texts(texts, bundled_model)
    measured = mcr.profile(bundled_model, prompts, progress=False)
    uses = perplexity.uses()
    folder = tmp_path / "tasks"
    folder.mkdir()
    perplexity.save(folder / "perplexity.nc")
    mcr.tasks.quality_by_depth(uses).to_csv(folder / "quality.csv", index=False)
    best = mcr.tasks.best_depth(uses)
    best.to_csv(folder / "best_depth.csv")
    alone = written(folder, tmp_path)
    row = best.iloc[0]
    assert (
        f"best at depth {row.best_depth} [{row.best_low}, {row.best_high}] of {row.last_depth}" in alone.text
    )
    assert not alone.figures[0]["layout"].get("shapes")
    beside = written([folder, measured], tmp_path)
    assert any("star" in str(figure["data"]) and figure["layout"].get("shapes") for figure in beside.figures)
    # The same from the file of the results.
    assert f"best at depth {row.best_depth}" in written(folder / "perplexity.nc", tmp_path).text


@pytest.fixture(scope="module")
def sweep(bundled_model: Any) -> xr.Dataset:
    pairs = mcr.PromptPairs.from_texts(["Ann has 5"], ["Ann has 7"], bundled_model, ["5"], ["7"])
    return mcr.activation_patching(bundled_model, pairs, layers=[0, 1], progress=False).data


def test_a_patching_sweep_is_mapped(sweep: xr.Dataset, tmp_path: Path) -> None:
    page = written(mcr.results.save_dataset(sweep, tmp_path / "patch.nc"), tmp_path)
    last = int(sweep.position[-1])  # the number is all the pair differs in
    assert f"The patch that does most (recovered 1.00) is at layer 0, position {last}." in page.text
    assert any(trace["type"] == "heatmap" for trace in page.figures[0]["data"])


def test_what_a_profile_lacks_is_left_out(tmp_path: Path) -> None:
    data = valley().data
    kept = [name for name in data.data_vars if set(data[name].dims) == {"prompt", "depth"}]
    page = written(mcr.Profile(data[kept]), tmp_path)
    assert "Attention patterns could not be read" in page.text
    assert "Strongest sinks" not in page.text
    single = written(valley().data.isel(prompt=[0]), tmp_path)
    assert "1 prompt: intervals over fewer" in single.text


def test_what_to_mind_is_said(tmp_path: Path) -> None:
    page = written(
        valley(
            interventions=["ablate_mlp_write(layers=[1])"],
            processing="folded norms",
            failed_checks={"pattern_rows": "rows do not sum to one"},
            estimator={"center": True, "unit_rows": False, "alpha": 1.0},
        ),
        tmp_path,
    )
    for part in (
        "under interventions: ablate_mlp_write",
        "folded norms",
        "rows do not sum",
        "another estimator",
    ):
        assert part in page.text
    assert "the bound is met" not in page.text


def test_strings_of_a_file_are_text(
    study: mcr.experiments.AblationStudy, sweep: xr.Dataset, tmp_path: Path
) -> None:
    """Wherever a file can put a string: the name, the prompts, attributes and their keys, arms, labels."""
    attributes = {
        "model": ATTACK,
        "revision": ATTACK,
        "prompts": {"source": ATTACK, "digest": ATTACK, ATTACK: ATTACK},
        "versions": {ATTACK: ATTACK},
        "failed_checks": {ATTACK: ATTACK},
        "processing": ATTACK,
        "interventions": [ATTACK],
        ATTACK: [ATTACK, {ATTACK: None}],
    }
    hostile = valley()
    hostile.data.attrs |= attributes
    data = study.data.assign_coords(arm=[f"{ATTACK[:-1]}{i}" for i in range(study.data.sizes["arm"])])
    data.attrs = study.data.attrs | {
        "arms": {ATTACK: ATTACK},
        "model": ATTACK,
        "ends_norm": [str(data.arm.values[0])],
    }
    stack = mcr.Profile.concat([valley(), valley()], "model", [ATTACK[:-1], ATTACK[:-1] + "2"])
    tokens = sweep.copy(deep=True).assign_attrs(model=ATTACK, hook=ATTACK)
    for side in ("text", "clean_text"):
        tokens[side] = tokens[side].astype(object)
        tokens[side][:] = ATTACK
    bare = written(valley(), tmp_path)
    harmless = {tag for tag, _ in bare.tags}
    for runs in ([hostile], [hostile, valley()], [data], [stack], [tokens]):
        page = written(runs, tmp_path)
        assert "img" not in harmless and {tag for tag, _ in page.tags} <= harmless | {"span", "strong"}
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert "<img src=x" in page.text  # as text
        for sign in "\u202e\u2028\ud800":
            assert sign not in page.source.replace(page.scripts[-2], "")
        for figure in page.figures:
            shown = json.dumps(figure, ensure_ascii=False)
            assert "<img" not in shown and "\u202e" not in shown and "\ud800" not in shown


def test_figures_end_no_script(tmp_path: Path) -> None:
    import plotly.graph_objects as go

    figure = go.Figure(go.Scatter(x=[1.0], y=[2.0], name=ATTACK, text=[ATTACK]))
    packed = str(figure_json(figure))
    assert "<" not in packed and packed.isascii()
    (trace,) = json.loads(packed)["data"]
    assert html.unescape(trace["name"]) == plain(ATTACK)


def test_long_strings_are_cut(tmp_path: Path) -> None:
    page = written(valley(model="m" * 100_000, note="n" * 1_000_000), tmp_path)
    assert len(page.text) < 60_000


def test_foreign_and_broken_files_are_one_line(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    (tmp_path / "text.nc").write_text("no result")
    whole = valley().save(tmp_path / "whole.nc").read_bytes()
    (tmp_path / "cut.nc").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    mcr.results.save_dataset(xr.Dataset({"a": ("b", [1.0])}), tmp_path / "other.nc")
    mcr.results.save_dataset(valley().data[["norm_ratio"]], tmp_path / "bare.nc")
    shapes = valley().data.isel(layer=slice(0, 2)).drop_vars(["sink_score"])
    mcr.results.save_dataset(shapes.rename(head="prompts"), tmp_path / "shapes.nc")
    texts = valley().data.assign(norm_ratio=(("prompt", "depth"), np.full((9, 5), "text")))
    mcr.results.save_dataset(texts, tmp_path / "texts.nc")
    numbers = valley(prompts=7, failed_checks="x", interventions=3).save(tmp_path / "numbers.nc")
    for name in (
        "none.nc",
        "text.nc",
        "cut.nc",
        "empty",
        "other.nc",
        "bare.nc",
        "shapes.nc",
        "texts.nc",
        numbers,
    ):
        with pytest.raises(mcr.InputError) as refused:
            report(tmp_path / name, out)
        said = str(refused.value)
        assert "\n" not in said and said.isprintable() and len(said) < 600
        assert Path(name).name in said
        assert not out.exists()
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "quality.csv").write_text("use,kind\n<b>,c\n")
    (tmp_path / "tables" / "best_depth.csv").write_text("use\nx\n")
    with pytest.raises(mcr.InputError, match="tables"):
        report(tmp_path / "tables", out)


def test_an_estimator_that_nobody_knows_is_named_as_text(tmp_path: Path) -> None:
    page = written(valley(estimator={"unknown": ATTACK}), tmp_path)
    assert "another estimator" in page.source and ATTACK not in page.source
    assert "none are read without the entropies of the raw estimator" in page.source


def test_nothing_and_too_much_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    with pytest.raises(mcr.InputError, match="nothing to report"):
        report([], out)
    with pytest.raises(mcr.InputError, match="up to 24"):
        report([valley()] * 25, out)
    with pytest.raises(mcr.InputError, match="a dict is no result"):
        report([{"a": 1}], out)  # type: ignore[list-item]


def test_only_a_report_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>somebody's own</p>")
    with pytest.raises(mcr.InputError, match="no report of mcr-lens"):
        report(valley(), page)
    assert page.read_text() == "<p>somebody's own</p>"
    report(valley(), page, overwrite=True)
    before = page.read_bytes()
    report(valley(), page)  # a report gives way to the next, and says the same of the same
    assert page.read_bytes() == before
    with pytest.raises(mcr.InputError, match="a folder stands there"):
        report(valley(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_result_is_never_replaced_nor_compared_with_itself(tmp_path: Path) -> None:
    run = valley().save(tmp_path / "run.nc")
    before = run.read_bytes()
    with pytest.raises(mcr.InputError, match=r"name of a result; .* run\.html"):
        report(run, run, overwrite=True)
    with pytest.raises(mcr.InputError, match=r"run\.nc: given twice"):
        report([run, str(run)], tmp_path / "page.html")
    assert run.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.nc"]
