"""What people see of the views: drawn, framed, pointed at, and never run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mcr_lens as mcr
from mcr_lens.viz import View, attention_sinks, lens_tokens, sink_tokens

pytestmark = pytest.mark.browser

TEXT = "Natalia sold clips to 48 of her friends.\nHow many clips did she sell?"
DRAWN = "document.querySelectorAll('.mcr-heads canvas').length === 5"  # four heads and the one that is large

# Every canvas: how many different colours it shows, and where its frame lies, in cells from the left.
LOOK = """() => [...document.querySelectorAll('.mcr-heads canvas')].map(canvas => {
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    const colors = new Set();
    for (let i = 0; i < data.length; i += 4) colors.add(data[i] + ',' + data[i + 1] + ',' + data[i + 2]);
    return colors.size;
})"""


def frames(page: Any) -> list[dict[str, float]]:
    page.wait_for_function("document.querySelectorAll('.mcr-column').length === 5")
    page.wait_for_timeout(800)
    return page.evaluate(
        """() => [...document.querySelectorAll('.mcr-column')].map(frame => {
            const around = frame.parentElement.getBoundingClientRect(), box = frame.getBoundingClientRect();
            return {left: (box.left - around.left) / around.width, width: box.width / around.width,
                    height: box.height / around.height};
        })"""
    )


@pytest.fixture(scope="module")
def heads(bundled_model: Any) -> View:
    return attention_sinks(bundled_model, TEXT, 4)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (400, "light")])
def test_heads_are_drawn_and_nothing_sticks_out(
    heads: View, open_page: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    page = open_page(heads.save(tmp_path / "heads.html"), width=width, scheme=scheme)
    page.wait_for_function(DRAWN)
    page.wait_for_timeout(500)
    assert min(page.evaluate(LOOK)) > 10
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    table = page.locator(".mcr-scroll").first
    assert table.evaluate("place => place.scrollWidth <= place.clientWidth")


@pytest.mark.parametrize("sink", [0, 5])
def test_the_frame_lies_on_the_sinks_column(
    bundled_model: Any, open_page: Any, tmp_path: Path, sink: int
) -> None:
    prompts = mcr.Prompts.from_texts([TEXT], bundled_model)
    (size,) = prompts.lengths
    view = attention_sinks(bundled_model, prompts, 4, sink_position=sink)
    page = open_page(view.save(tmp_path / "heads.html"))
    *small, large = frames(page)
    for frame in small:  # no axes: the cells fill the picture
        assert abs(frame["left"] - sink / size) < 0.02 and abs(frame["width"] - 1 / size) < 0.01
        assert frame["height"] > 0.95
    # Axes stand left of and below the large one; its right edge is the picture's.
    start = 1 - large["width"] * size
    assert 0.03 < start < 0.4
    assert abs(large["left"] - (start + sink * large["width"])) < 0.02


def test_pointing_at_a_cell_shows_its_value(heads: View, open_page: Any, tmp_path: Path) -> None:
    page = open_page(heads.save(tmp_path / "heads.html"))
    page.wait_for_function(DRAWN)
    page.wait_for_timeout(800)
    large = page.locator(".mcr-heads canvas").last
    large.scroll_into_view_if_needed()
    before = large.evaluate("canvas => canvas.toDataURL()")
    box = large.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.7)
    page.wait_for_timeout(300)
    assert large.evaluate("canvas => canvas.toDataURL()") != before


def test_clicking_a_head_shows_it_large(heads: View, open_page: Any, tmp_path: Path) -> None:
    page = open_page(heads.save(tmp_path / "heads.html"))
    page.wait_for_function(DRAWN)
    names = page.locator(".mcr-heads h4").all_inner_texts()
    page.locator(".mcr-heads canvas").nth(2).click()
    assert page.locator(".mcr-heads h3").last.inner_text().startswith(names[2])


@pytest.mark.parametrize(("call", "cell"), [(sink_tokens, "bdi.mcr-token"), (lens_tokens, "td.mcr-token")])
@pytest.mark.parametrize("width", [1280, 400])
def test_pointing_at_a_token_tells_its_numbers_inside_the_window(
    bundled_model: Any, open_page: Any, tmp_path: Path, call: Callable[..., View], cell: str, width: int
) -> None:
    page = open_page(call(bundled_model, TEXT).save(tmp_path / "tokens.html"), width=width)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for place in (0, 5, 16):
        token = page.locator(cell).nth(place)
        token.scroll_into_view_if_needed()
        page.wait_for_timeout(100)  # what moves away under the pointer is no longer told of
        token.hover()
        tip = page.locator(".mcr-tip")
        assert tip.is_visible() and f"position {place}" in tip.inner_text()
        assert any(sign in tip.inner_text() for sign in ("%", "mean over heads 0."))
        box = tip.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] >= 0
    page.mouse.move(1, 890)
    assert not tip.is_visible()


def test_hostile_tokens_are_text_and_run_nothing(llama_folder: Path, open_page: Any, tmp_path: Path) -> None:
    model = mcr.load_model(llama_folder)
    attack = [
        "</script><script>window.bad=1</script>",
        '"><img src=x onerror="window.bad=1">',
        "\u202e\u2028\ud800",
    ]
    model.tokenizer.decode = lambda ids, **_: "".join(attack[i % 3] for i in ids)
    ids = [1, *range(3, 20)]
    for call in (
        lambda: attention_sinks(model, ids, 1),
        lambda: sink_tokens(model, ids),
        lambda: lens_tokens(model, ids),
    ):
        page = open_page(call().save(tmp_path / "hostile.html"))
        page.wait_for_timeout(1500)
        page.locator(".mcr-view [title]").last.hover()
        assert page.evaluate("window.bad") is None
        assert page.locator("img").count() == 0
        said = page.locator("body").inner_text() + page.locator(".mcr-tip").inner_text()
        assert "<img" in said or "<script" in said


def test_views_share_one_script_in_either_order(heads: View, open_page: Any, tmp_path: Path) -> None:
    for number, carried in enumerate([(True, False), (False, True)]):
        path = tmp_path / f"{number}.html"
        path.write_text("<meta charset=utf-8>" + "".join(heads.html(script=script) for script in carried))
        page = open_page(path)
        page.wait_for_function("document.querySelectorAll('.mcr-heads canvas').length === 10")


def test_without_the_script_a_view_says_what_to_do(heads: View, open_page: Any, tmp_path: Path) -> None:
    path = tmp_path / "bare.html"
    path.write_text("<meta charset=utf-8>" + heads.html(script=False))
    page = open_page(path)
    page.get_by_text("is not on this page").wait_for(timeout=15_000)
    assert page.locator("tbody tr").count() == 4
