"""Maps of patching sweeps show the sweep's numbers, and say what stands where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.viz import patching_map

RNG = np.random.default_rng(0)


def by_position(texts: list[list[str]], clean: list[list[str]], n_layers: int = 3) -> xr.Dataset:
    """A sweep over the positions of some pairs of prompts; an empty text is beyond a prompt's end."""
    ids = {text: number for number, text in enumerate(sorted({t for row in texts + clean for t in row}))}
    ids[""] = -1
    of = ("prompt", "position")
    shape = (len(texts), n_layers, len(texts[0]))
    return xr.Dataset(
        {"recovered": (("prompt", "layer", "position"), RNG.normal(size=shape))},
        coords={
            "prompt": range(shape[0]),
            "layer": range(n_layers),
            "position": range(shape[2]),
            "text": (of, np.array(texts, object)),
            "clean_text": (of, np.array(clean, object)),
            "token": (of, [[ids[text] for text in row] for row in texts]),
            "clean_token": (of, [[ids[text] for text in row] for row in clean]),
        },
        attrs={"hook": "resid_pre", "direction": "denoise", "positions": "all"},
    )


def by_head(n_layers: int = 3, n_heads: int = 4, value: str = "recovered") -> xr.Dataset:
    values = RNG.normal(size=(2, n_layers, n_heads))
    coords = {"prompt": [0, 1], "layer": range(n_layers), "head": range(n_heads)}
    return xr.Dataset({value: (("prompt", "layer", "head"), values)}, coords=coords)


def drawn(*arguments: Any, **options: Any) -> Any:
    """The figure; plotly's own types do not know what it holds."""
    return patching_map(*arguments, **options)


def labels(figure: Any) -> list[str]:
    return list(figure.layout.xaxis.ticktext)


def test_the_cells_are_the_mean_over_prompts_or_one_of_them() -> None:
    result = by_head()
    figure = drawn(result)
    np.testing.assert_allclose(figure.data[0].z, result.recovered.mean("prompt"))
    assert figure.data[0].zmid == 0
    np.testing.assert_array_equal(drawn(result, prompt=1).data[0].z, result.recovered.sel(prompt=1))
    other = by_head(value="lost")
    np.testing.assert_allclose(drawn(other).data[0].z, other.lost.mean("prompt"))


def test_dimensions_in_another_order_give_the_same_map() -> None:
    result = by_head()
    turned = drawn(result.transpose("head", "prompt", "layer"))
    np.testing.assert_array_equal(turned.data[0].z, drawn(result).data[0].z)


def test_positions_read_as_tokens_and_numbers_of_places_are_told_from_them() -> None:
    result = by_position(
        [["<s>", " 5", " pens", " a"], ["<s>", " 5", " nuts", " b"]],
        [["<s>", " 5", " nuts", " a"], ["<s>", " 5", " pens", " b"]],
    )
    assert labels(drawn(result)) == ["&lt;s&gt;", "␣5", "[2] ≠", "[3]"]
    assert labels(drawn(result, prompt=0)) == ["&lt;s&gt;", "␣5", "␣nuts→␣pens", "␣a"]
    assert drawn(result, prompt=0).data[0].text[1][2] == "layer 1, position 2, token ␣nuts→␣pens"


def test_without_any_shared_token_positions_are_plain_numbers() -> None:
    result = by_position([["a", "b"], ["c", "d"]], [["a", "b"], ["c", "d"]])
    assert labels(drawn(result)) == ["0", "1"]
    assert labels(drawn(result.drop_vars(["text", "clean_text", "token", "clean_token"]))) == ["0", "1"]


def test_a_prompt_that_ends_earlier_takes_no_part_in_a_label() -> None:
    result = by_position([["a", "b"], ["a", ""]], [["a", "b"], ["a", ""]])
    assert labels(drawn(result)) == ["a", "b"]


@pytest.mark.parametrize("text", ["<b>$x$</b>", "\n\u202e", "internationalisation of everything"])
def test_a_token_is_shown_as_text_and_nothing_else(text: str) -> None:
    (label,) = labels(drawn(by_position([[text]], [[text]])))
    assert not {"<", "$", "\n", "\u202e"} & set(label)
    assert len(label.replace("&lt;", "<").replace("&gt;", ">").replace("&#36;", "$")) <= 14


def test_a_sweep_over_layers_alone_is_one_column_with_its_positions() -> None:
    result = by_position([["a", "b"]], [["a", "c"]]).isel(position=0, drop=True)
    for text in ("text", "clean_text", "token", "clean_token"):
        result = result.drop_vars(text, errors="ignore")
    result.attrs["positions"] = [0]
    figure = drawn(result)
    np.testing.assert_array_equal(np.array(figure.data[0].z)[:, 0], result["recovered"][0])
    assert (figure.layout.xaxis.title.text, labels(figure)) == ("positions", ["0"])
    assert labels(drawn(result.assign_attrs(positions="all"))) == ["all"]


def test_few_columns_show_their_numbers_and_many_do_not() -> None:
    assert drawn(by_head(n_heads=8)).data[0].texttemplate == "%{z:.2f}"
    assert drawn(by_head(n_heads=9)).data[0].texttemplate is None


def test_of_very_many_places_some_are_labelled_the_differing_ones_among_them() -> None:
    clean = [f"t{i}" for i in range(200)]
    corrupt = [*clean[:101], "other", *clean[102:]]
    figure = drawn(by_position([corrupt], [clean]))
    shown = labels(figure)
    assert 20 <= len(shown) <= 44
    assert "t101→other" in shown
    at = list(figure.layout.xaxis.tickvals)
    assert at == sorted(at) and min(np.diff(at)) >= 4
    assert dict(zip(at, shown, strict=True))[0] == "t0"
    assert np.shape(figure.data[0].z) == (3, 200)  # every cell is there
    everywhere = drawn(by_position([[f"u{i}" for i in range(200)]], [clean]))
    assert list(everywhere.layout.xaxis.tickvals) == list(range(0, 200, 5))


def test_a_model_of_many_layers_still_fits_on_a_page() -> None:
    heights = [drawn(by_head(n_layers=n)).layout.height for n in (2, 12, 48, 96)]
    assert heights == sorted(heights)
    assert heights[2] < 1200
    assert len(drawn(by_head(n_layers=48)).layout.yaxis.ticktext) == 48


def test_the_title_says_what_was_put_where() -> None:
    result = by_position([["a", "b"], ["a", "b"]], [["a", "b"], ["a", "c"]])
    assert drawn(result).layout.title.text == "resid_pre, clean into corrupt, mean of 2 pairs"
    assert drawn(result, prompt=1).layout.title.text == "resid_pre, clean into corrupt, pair 1"
    result.attrs |= {"direction": "noise", "hook": "<i>z</i>"}
    assert drawn(result).layout.title.text.startswith("&lt;i&gt;z&lt;/i&gt;, corrupt into clean")
    assert drawn(by_head()).layout.title.text is None


def test_what_cannot_be_drawn_is_refused() -> None:
    result = by_head()
    with pytest.raises(InputError, match=r"prompt 5 is not in the result: it has \[0, 1\]"):
        patching_map(result, prompt=5)
    with pytest.raises(InputError, match="no 'patched' in the result: it has recovered"):
        patching_map(result, "patched")
    with pytest.raises(InputError, match="sweep over one"):
        patching_map(result.expand_dims({"position": [0, 1]}))


def test_a_real_sweep_is_drawn(llama: Any) -> None:
    clean, corrupt = (mcr.Prompts.from_tokens([row]) for row in ([1, 7, 9, 23], [1, 7, 19, 23]))
    pairs = mcr.PromptPairs(clean, corrupt, (10,), (20,))
    result = mcr.activation_patching(llama, pairs, over=("layer",), positions=[0, 2], progress=False)
    figure = drawn(result)
    assert labels(figure) == ["0, 2"]
    np.testing.assert_array_equal(np.array(figure.data[0].z)[:, 0], result["recovered"][0])
    assert "<div" in figure.to_html(include_plotlyjs=False, full_html=False)
