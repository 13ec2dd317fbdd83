"""Figures of lenses show the lenses' numbers, all of them and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.viz import lens_curves

PANELS = {"x": "lens_loss", "x2": "lens_entropy", "x3": "lens_kl", "x4": "target_probability"}
PARTS = ("low", "high", "mean")


def made(seed: int = 0, n_depths: int = 5, n_prompts: int = 6) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    shape = ("prompt", "depth")
    return xr.Dataset(
        {name: (shape, rng.uniform(size=(n_prompts, n_depths))) for name in PANELS.values()},
        coords={"prompt": range(n_prompts), "depth": range(n_depths)},
    )


def drawn(lenses: Any, **options: Any) -> Any:
    """The figure; plotly's own types do not know what it holds."""
    return lens_curves(lenses, **options)


def curves(figure: Any, axis: str) -> list[Any]:
    return [trace for trace in figure.data if (trace.xaxis or "x") == axis]


def expected(data: xr.Dataset, variable: str) -> dict[str, np.ndarray]:
    values = data[variable].values
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    return {"mean": values.mean(0), "low": low, "high": high}


@pytest.mark.parametrize("seed", [0, 1])
def test_every_curve_is_the_lens_own(seed: int) -> None:
    data = made(seed)
    before = data.copy(deep=True)
    figure = drawn(data)
    for axis, variable in PANELS.items():
        traces = curves(figure, axis)
        assert len(traces) == 3
        for trace, part in zip(traces, PARTS, strict=True):
            np.testing.assert_array_equal(trace.x, data.depth)
            np.testing.assert_allclose(trace.y, expected(data, variable)[part], rtol=1e-12)
        assert traces[1].fill == "tonexty"
        assert not any(trace.showlegend for trace in traces)  # one lens needs no legend
    assert before.identical(data)


def test_several_lenses_share_panels_and_stand_in_the_legend_once() -> None:
    lenses = {"logit lens": made(0), "tuned lens": made(1), "ablated": made(2)}
    figure = drawn(lenses)
    for axis, variable in PANELS.items():
        lines = [trace for trace in curves(figure, axis) if trace.mode == "lines+markers"]
        assert [line.name for line in lines] == list(lenses)
        for line, data in zip(lines, lenses.values(), strict=True):
            np.testing.assert_allclose(line.y, data[variable].mean("prompt"), rtol=1e-12)
    assert [trace.name for trace in figure.data if trace.showlegend] == list(lenses)
    assert len({trace.line.color for trace in curves(figure, "x") if trace.mode == "lines+markers"}) == 3
    # A click in the legend takes the band away with the line.
    assert all(trace.legendgroup in lenses for trace in figure.data)


def test_no_two_of_many_lenses_look_the_same() -> None:
    figure = drawn({f"lens {i}": made(i) for i in range(9)})
    lines = [trace for trace in curves(figure, "x") if trace.mode == "lines+markers"]
    assert len({(line.line.color, line.marker.symbol) for line in lines}) == 9


def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    data = made()
    figure = drawn(data, perplexity=True)
    for trace, part in zip(curves(figure, "x"), PARTS, strict=True):
        np.testing.assert_allclose(trace.y, np.exp(expected(data, "lens_loss")[part]))
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.annotations[0].text == "perplexity of the next token"
    np.testing.assert_allclose(curves(figure, "x2")[2].y, expected(data, "lens_entropy")["mean"])


def test_models_of_unequal_depth_are_drawn_over_relative_depth() -> None:
    figure = drawn({"small": made(0, 5), "large": made(1, 9)})
    assert figure.layout.xaxis3.title.text == "relative depth"
    for trace in figure.data:
        np.testing.assert_allclose(trace.x, np.linspace(0, 1, len(trace.y)))
    assert "0 = embeddings" in drawn({"a": made(0), "b": made(1)}).layout.xaxis3.title.text


def test_some_depths_alone_stay_where_they_are() -> None:
    figure = drawn({"a": made(0).sel(depth=slice(2, None)), "b": made(1)})
    assert list(figure.data[2].x) == [2, 3, 4]
    assert list(figure.data[14].x) == [0, 1, 2, 3, 4]


def test_what_a_lens_lacks_is_left_out() -> None:
    """Without tokens, outside the engine, there is no target and so neither loss nor probability."""
    figure = drawn({"no targets": made()[["lens_entropy", "lens_kl"]]})
    assert curves(figure, "x") == curves(figure, "x4") == []
    assert len(curves(figure, "x2")) == len(curves(figure, "x3")) == 3
    assert [trace.name for trace in figure.data if trace.showlegend] == ["no targets"]


def test_a_profile_that_a_lens_took_part_in_is_drawn_as_the_lens_alone(llama: Any) -> None:
    prompts = mcr.Prompts.from_tokens([[1, 5, 6, 7, 8], [1, 9, 8], [1, 2, 3, 4]])
    shared = mcr.profile(llama, prompts, observers=[mcr.LogitLens(llama)], progress=False)
    alone = mcr.logit_lens(llama, prompts, progress=False).data
    figure = drawn({"shared": shared, "alone": alone})
    assert len(figure.data) == 24
    for ours, theirs in zip(figure.data[:12], figure.data[12:], strict=True):
        np.testing.assert_allclose(ours.y, theirs.y, atol=1e-6)


def test_names_are_no_markup() -> None:
    figure = drawn({"<b>bold</b>": made()})
    assert "<b>" not in figure.data[2].hovertemplate


def test_what_is_no_lens_is_refused() -> None:
    with pytest.raises(InputError, match="no lens to draw"):
        drawn({})
    with pytest.raises(InputError, match=r"'a': no lens in this result: it has none of lens_loss"):
        drawn({"a": made()[["lens_loss"]].rename(lens_loss="norm_ratio")})
    with pytest.raises(InputError, match="a list is no lens"):
        drawn({"a": [1, 2]})


def test_the_figure_can_be_written() -> None:
    assert "<div" in drawn({"a": made()}).to_html(include_plotlyjs=False, full_html=False)
