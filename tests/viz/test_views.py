"""Views of heads and tokens: the numbers are the profile's, hostile tokens are text, nothing grows large."""

import html
import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.hooks.observers.patterns import PatternObserver
from mcr_lens.metrics.roles import ROLES, head_roles
from mcr_lens.viz import View, _view, attention_sinks, lens_tokens, sink_tokens
from mcr_lens.viz._tokens import token_texts, visible

IDS = [1, *range(3, 33)]


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, llama_folder: Any) -> Any:
    return mcr.load_model(llama_folder, backend=request.param)


@pytest.fixture(scope="module")
def expected(model: Any) -> Any:
    """What a profile says of the prompt."""
    profile = mcr.profile(model, mcr.Prompts.from_tokens([IDS]), progress=False)
    return profile.data.isel(prompt=0)


def props(view: View) -> dict[str, Any]:
    """What the drawing script is given."""
    (found,) = re.findall(r'data-props="([^"]*)"', view.html(script=False))
    return json.loads(html.unescape(found))


def rows(view: View) -> list[list[str]]:
    """The cells of the table, markup removed."""
    body = view.html(script=False).split("<tbody>")[1].split("</tbody>")[0]
    lines = [line.split("</td>")[:-1] for line in re.findall(r"<tr>(.*?)</tr>", body)]
    return [[html.unescape(re.sub("<[^>]*>", "", cell)) for cell in line] for line in lines]


@pytest.mark.parametrize("size", [64, 7])
def test_scores_are_a_profiles_however_little_is_drawn(model: Any, expected: Any, size: int) -> None:
    of_layer = expected.sel(layer=1)
    table = rows(attention_sinks(model, IDS, 1, max_tokens=size))
    assert sorted(int(line[0][1:]) for line in table) == [0, 1, 2, 3]
    names = ["sink_score", "sink_attention", "identity_score", "previous_token_score", "mixing_score"]
    for line in table:
        of_head = of_layer.sel(head=int(line[0][1:]))
        assert line[2:7] == [f"{float(of_head[name]):.2f}" for name in names]
        assert f"at {int(of_head.col_sum_argmax)}: {float(of_head.col_sum_max):.2f}" in line[7]
    shown = [float(of_layer.sink_score.sel(head=int(line[0][1:]))) for line in table]
    assert shown == sorted(shown, reverse=True)


@pytest.mark.parametrize("chunk", [None, 9])
def test_patterns_and_column_means_equal_those_the_model_gives(model: Any, chunk: int | None) -> None:
    prompts = mcr.Prompts.from_tokens([IDS, IDS[:12]])
    recorded = mcr.record(model, prompts, ["blocks.2.attn.hook_pattern"])["blocks.2.attn.hook_pattern"]
    look = PatternObserver(model, [2], max_tokens=20)
    data = mcr.measure(model, prompts, [look], chunk=chunk, progress=False)
    assert data.layer.values.tolist() == [2]
    np.testing.assert_allclose(data.pattern[0, 0], recorded[0, :, :20, :20], atol=1e-6)
    np.testing.assert_allclose(data.pattern[1, 0, :, :12, :12], recorded[1, :, :12, :12], atol=1e-6)
    assert bool(data.pattern[1, 0, :, 12:].isnull().all())
    np.testing.assert_allclose(data.column_mean[0, 0], recorded[0].mean(1)[:, :20], atol=1e-6)
    np.testing.assert_allclose(data.column_mean[1, 0, :, :12], recorded[1].sum(1)[:, :12] / 12, atol=1e-6)
    assert bool(data.column_mean[1, 0, :, 12:].isnull().all())


def test_the_drawn_pattern_is_the_models_rounded_to_a_thousandth(model: Any) -> None:
    name = "blocks.1.attn.hook_pattern"
    pattern = mcr.record(model, mcr.Prompts.from_tokens([IDS]), [name])[name][0]
    given = props(attention_sinks(model, torch.tensor([IDS]), 1, heads=[3, 1]))
    order = [int(name.split()[0][1:]) for name in given["names"]]
    assert sorted(order) == [1, 3]
    for head, drawn in zip(order, given["heads"], strict=True):
        for query, row in enumerate(drawn):
            assert len(row) == query + 1
            np.testing.assert_allclose(np.array(row) / 1000, pattern[head, query, : query + 1], atol=5.1e-4)


def test_an_intervention_is_seen_and_said(bundled_model: Any) -> None:
    text = "Natalia sold clips to 48 of her friends."
    edit = mcr.block_attention_to(0, layers=[4])
    assert (
        "Under block_attention_to(positions=0"
        in attention_sinks(bundled_model, text, 4, interventions=edit).html()
    )
    before, after = (rows(attention_sinks(bundled_model, text, 4, interventions=e)) for e in ([], edit))
    assert max(float(line[3]) for line in before) > 0.1 and max(float(line[3]) for line in after) < 0.01


def test_roles_name_the_largest_share_or_an_even_mixture() -> None:
    sink = torch.tensor([0.9, 0.4, 0.0, 0.1, 0.1, torch.nan])
    identity = torch.tensor([0.0, 0.1, 0.8, 0.2, 0.2, torch.nan])
    previous = torch.tensor([0.5, 0.6, 0.1, 0.2, 0.2, torch.nan])
    mixing = torch.tensor([0.1, 0.2, 0.9, 0.8, 0.2, torch.nan])
    found = [ROLES[int(role)] for role in head_roles(sink, identity, previous, mixing)]
    assert found == ["sink", "previous token", "identity", "mixing", "other", "other"]


def test_strips_shade_by_the_mean_column_and_frame_what_a_head_sinks_into(bundled_model: Any) -> None:
    prompts = mcr.Prompts.from_texts(["Natalia sold clips to 48 of her friends."], bundled_model)
    name = "blocks.4.attn.hook_pattern"
    columns = mcr.record(bundled_model, prompts, [name])[name][0].mean(1)
    page = sink_tokens(bundled_model, prompts, 4).html()
    shades = [float(x) for x in re.findall(r"rgba\(0,114,178,([0-9.]+)\)\" title", page)]
    np.testing.assert_allclose(shades, 0.85 * columns.mean(0).sqrt(), atol=6e-4)
    framed = ["mcr-sink" in x for x in re.findall(r'<bdi class="([^"]*)"', page)]
    assert framed == (columns.amax(0) > 0.3).tolist()
    assert any(framed)


def test_every_layer_has_its_strip_unless_some_are_named(model: Any) -> None:
    assert sink_tokens(model, IDS).html().count('class="mcr-strip"') == 3
    assert re.findall(r"layer (\d):", sink_tokens(model, IDS, [2, 0]).html()) == ["2", "0"]


def test_lens_shows_the_best_tokens_of_the_logit_lens(model: Any) -> None:
    prompts = mcr.Prompts.from_tokens([IDS])
    lens = mcr.logit_lens(model, prompts, top_k=3, progress=False).data.isel(prompt=0)
    page = lens_tokens(model, IDS, top_k=3).html()
    tips = [html.unescape(x) for x in re.findall(r'<td class="mcr-token[^"]*"[^>]*title="([^"]*)"', page)]
    assert len(tips) == 4 * len(IDS)
    for tip in tips:
        position, depth = map(int, re.findall(r"\d+", tip.split("\n")[0]))
        at = lens.sel(position=position, depth=depth)
        names = token_texts(model, at.top_token.values.tolist())
        pairs = zip(at.top_probability.values, names, strict=True)
        assert tip.split("\n")[1:4] == [f"{chance:7.1%}  {visible(name)}" for chance, name in pairs]


def test_lens_frames_the_predictions_that_came_true(bundled_model: Any) -> None:
    page = lens_tokens(bundled_model, "Natalia sold clips to 48 of her friends. Natalia sold", top_k=1).html()
    (came, hits) = (page.count("rank 1&#10;") + page.count('rank 1"'), page.count('mcr-hit"'))
    assert hits == came > 0


HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'&quot;",
    "\u2028\u2029",
    "\u202eabc\u2066",
    "\ud800",
    "שלום",
    "\u0301",
    "",
    "\x00\x1b",
]


@pytest.fixture
def hostile(llama_folder: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model whose vocabulary is an attack."""
    model = mcr.load_model(llama_folder)
    spell = lambda ids, **_: "".join(HOSTILE[i % len(HOSTILE)] for i in ids)  # noqa: E731
    monkeypatch.setattr(model.tokenizer, "decode", spell)
    return model


def test_hostile_tokens_stay_text_in_every_view(hostile: Any) -> None:
    views = [attention_sinks(hostile, IDS, 1), sink_tokens(hostile, IDS), lens_tokens(hostile, IDS)]
    for view in views:
        page = view.page()
        page.encode("utf-8")  # no half of a surrogate pair
        assert page.count("</script>") == page.count("<script>") == 1
        assert "<img" not in page and "alert(1)</" not in page
        assert not set(page) & set("\u2028\u2029\u202e\u2066\u0000\u001b")
    tokens = props(views[0])["tokens"]
    assert any("onerror" in token or "<img" in token for token in tokens)
    assert any("\\ud800" in token for token in tokens)


def test_a_models_name_is_escaped(llama_folder: Any, tmp_path: Any) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    folder.symlink_to(llama_folder)
    page = attention_sinks(mcr.load_model(folder), IDS, 0).page()
    assert "<img" not in page and "&lt;img" in page


def test_white_space_and_bytes_are_visible(bundled_model: Any) -> None:
    ids = mcr.Prompts.from_texts(["a b\n\té"], bundled_model).tokens[0]
    shown = "".join(visible(text) for text in token_texts(bundled_model, ids))
    assert shown == "<bos>a␣b↵⇥\\xc3\\xa9"
    assert visible("abcdef", 4) == "abc…"
    assert token_texts(type("Bare", (), {"tokenizer": None})(), [3, 4]) == ["[3]", "[4]"]


def test_size_is_bounded_and_the_cropping_said(bundled_model: Any) -> None:
    ids = [0, *np.random.default_rng(0).integers(3, 1000, 400).tolist()]
    heads = attention_sinks(bundled_model, ids, 4)
    assert len(props(heads)["tokens"]) == 64
    assert "first 64 of 401 tokens" in heads.html(script=False)
    assert len(heads.html(script=False)) < 120_000
    whole = attention_sinks(bundled_model, ids, 4, "all", max_tokens=10_000)
    assert len(props(whole)["tokens"]) == 193 and len(whole.html(script=False)) < 700_000
    assert "Shown: 2 of 4 heads" in attention_sinks(bundled_model, ids, 4, [1, 2]).html(script=False)
    assert "first 64 of 401" in sink_tokens(bundled_model, ids).html()
    assert "first 64 of 401" in lens_tokens(bundled_model, ids).html()
    assert len(lens_tokens(bundled_model, ids, max_tokens=8, depths=[0, 10]).html().split("<tr>")) == 4
    short = attention_sinks(bundled_model, ids, 4, max_tokens=5, sink_position=9)
    assert "position 9 lies beyond" in short.html(script=False)


def test_of_a_prompt_beyond_the_context_the_beginning_is_read_and_that_is_said(
    bundled_model: Any,
) -> None:
    n_ctx = bundled_model.cfg.n_ctx
    ids = [0, *np.random.default_rng(0).integers(3, 1000, n_ctx + 7).tolist()]
    said = f"first {n_ctx} of {n_ctx + 8} tokens, the model&#39;s context"
    for view in (attention_sinks(bundled_model, ids, 4), sink_tokens(bundled_model, ids, 4)):
        assert said in view.html(script=False)
    whole, cut = (lens_tokens(bundled_model, given, max_tokens=8) for given in (ids, ids[:n_ctx]))
    assert said in whole.html()
    assert whole.html().split("<table")[1] == cut.html().split("<table")[1]


def test_heads_may_be_any_collection_of_numbers(model: Any) -> None:
    views = [attention_sinks(model, IDS, 1, given).html() for given in ([0, 2], np.array([2, 0]), {0, 2})]
    assert len(set(views)) == 1


def test_nothing_in_a_page_points_elsewhere(bundled_model: Any) -> None:
    page = attention_sinks(bundled_model, "Natalia sold clips", 4).page()
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)
    assert "import(" not in page and "unpkg" not in page and "url(" not in page


def test_the_page_is_the_same_every_time_and_can_be_saved(bundled_model: Any, tmp_path: Any) -> None:
    views = [attention_sinks(bundled_model, "Natalia sold clips", 4) for _ in range(2)]
    path = views[0].save(tmp_path / "heads.html")
    assert path.read_text(encoding="utf-8") == views[1].page()


class Shell:
    """What of IPython tells which cell runs."""

    def __init__(self, cell: str | None, execution: int) -> None:
        self.execution_count = execution
        self._parent = {"metadata": {} if cell is None else {"cellId": cell}}

    def get_parent(self) -> dict[str, Any]:
        return self._parent


def test_a_notebook_carries_the_script_once_and_again_where_its_cell_runs_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = View("title", '<div class="mcr-heads"></div>', draws_heads=True)
    monkeypatch.setattr(_view, "_carrier", None)
    monkeypatch.setattr(_view, "_packed_script", lambda: "PACKED")

    def carries(cell: str | None, execution: int) -> bool:
        shell = Shell(cell, execution)
        monkeypatch.setattr(_view, "_shell", lambda: shell)
        return "PACKED" in view._repr_html_()

    assert [carries("a", 1), carries("a", 1), carries("b", 2)] == [True, False, False]
    assert [carries("a", 3), carries("b", 4)] == [True, False]
    assert carries("vscode-notebook-cell:x", 5)
    monkeypatch.setattr(_view, "_carrier", None)
    assert [carries(None, 1), carries(None, 2)] == [True, False]
    assert "PACKED" in view.html() and "PACKED" not in view.html(script=False)
    assert "PACKED" not in View("title", "no heads").html()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: attention_sinks(m, IDS, 3), "layer 3.*0..2"),
        (lambda m: attention_sinks(m, IDS, True), "layer True"),
        (lambda m: attention_sinks(m, IDS, 0, heads=[4]), r"heads \[4\].*0..3"),
        (lambda m: attention_sinks(m, IDS, 0, heads=[]), r"heads \[\].*0..3"),
        (lambda m: attention_sinks(m, IDS, 0, heads=None), "heads None"),  # type: ignore[arg-type]
        (lambda m: attention_sinks(m, IDS, 0, interventions="x"), "'x' is no hook"),  # type: ignore[arg-type]
        (lambda m: attention_sinks(m, IDS, 0, sink_position=1.0), "sink_position 1.0"),  # type: ignore[arg-type]
        (lambda m: attention_sinks("tiny", "w1 w2", 0), "mcr_lens.load_model"),  # type: ignore[arg-type]
        (lambda m: sink_tokens(m, IDS, 2.0), "layers 2.0"),  # type: ignore[arg-type]
        (lambda m: lens_tokens(m, IDS, depths=5), "depths 5"),  # type: ignore[arg-type]
        (lambda m: attention_sinks(m, IDS, 0, heads="best"), "use 'top', 'all'"),  # type: ignore[arg-type]
        (lambda m: attention_sinks(m, IDS, 0, max_tokens=1), "max_tokens 1"),
        (lambda m: attention_sinks(m, IDS, 0, sink_position=31), "sink_position 31"),
        (lambda m: attention_sinks(m, [IDS, IDS], 0), "a view shows one"),  # type: ignore[list-item]
        (lambda m: attention_sinks(m, [0.5, 1.0], 0), "token ids"),  # type: ignore[list-item]
        (lambda m: attention_sinks(m, mcr.Prompts.from_tokens([IDS, IDS]), 0), "2 prompts"),
        (lambda m: attention_sinks(m, "w1 \ud800", 0), "surrogate"),
        (lambda m: sink_tokens(m, IDS, [0, 7]), "layers .*7"),
        (lambda m: sink_tokens(m, IDS, []), r"layers \[\]"),
        (lambda m: lens_tokens(m, IDS, depths=[4]), r"depths \[4\].*0..3"),
        (lambda m: lens_tokens(m, IDS, depths=[]), r"depths \[\]"),
        (lambda m: lens_tokens(m, IDS, top_k=0), "top_k 0"),
    ],
)
def test_bad_input_says_what_is_allowed(llama: Any, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(llama)
