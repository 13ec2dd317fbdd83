"""What people see of a report: figures drawn at any width, light and dark; nothing asked for, nothing run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.viz import report

pytestmark = pytest.mark.browser

ATTACK = "</script><script>window.bad=1</script><img src=x onerror='window.bad=1'>\u202e"
READY = (
    "[...document.querySelectorAll('.mcr-plot')]"
    ".every(plot => plot.clientWidth === 0 || 'drawn' in plot.dataset)"
)
ALL_READY = "[...document.querySelectorAll('.mcr-plot')].every(plot => 'drawn' in plot.dataset)"
HEADS_READY = "document.querySelectorAll('.mcr-heads canvas').length === 5"
OPEN = "document.querySelectorAll('details').forEach(more => { more.open = true; })"
# Of every visible panel: the number of paths or images in it.
PANELS = """() => [...document.querySelectorAll('.mcr-plot')]
    .filter(plot => plot.clientWidth)
    .flatMap(plot => [...plot.querySelectorAll('.subplot .overplot')])
    .map(panel => panel.querySelectorAll('path, image').length)"""
# Texts of a figure that lie over each other, or stick out of it.
TROUBLE = """() => {
    const found = [];
    const plots = [...document.querySelectorAll('.mcr-plot[data-drawn]')].filter(plot => plot.clientWidth);
    plots.forEach((plot, i) => {
        const whole = plot.getBoundingClientRect();
        const labels = '[class^=x][class$=tick]';
        const texts = [...plot.querySelectorAll('text')]
            .filter(text => text.textContent.trim() && !text.closest('.hm'))
            .map(text => [text.textContent, text.getBoundingClientRect(), text.closest(labels)])
            .filter(([, box]) => box.width && box.height);
        texts.forEach(([text, box, turned], j) => {
            if (box.left < whole.left - 1 || box.right > whole.right + 1 || box.bottom > whole.bottom + 1)
                found.push(`figure ${i}: ${text} is cut`);
            texts.slice(j + 1).forEach(([other, its, too]) => {
                const across = Math.min(box.right, its.right) - Math.max(box.left, its.left);
                const down = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
                // Boxes of labels that stand aslant overlap where the labels do not.
                if (across > 2 && down > 4 && !(turned && too))
                    found.push(`figure ${i}: ${text} over ${other}`);
            });
        });
    });
    return found;
}"""


def wait(page: Any, condition: str) -> None:
    """Until a condition holds. Playwright's own wait needs eval in the page, which the page forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never came true: {condition}")


def valley(**attributes: Any) -> mcr.Profile:
    scores = np.random.default_rng(0).uniform(size=(9, 4, 4))
    return made_profile(
        [1, 1, 200, 210, 3], [0.9, 0.9, 0.2, 0.1, 0.8], sink_score=scores, n_prompts=9, **attributes
    )


@pytest.fixture(scope="module")
def page_of_tiny(bundled_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the bundled model has: a profile, a study, a lens, a training run."""
    folder = tmp_path_factory.mktemp("report")
    texts = mcr.prompts.word_problems(4)
    prompts = mcr.Prompts.from_texts(texts, bundled_model)
    runs = [
        mcr.profile(bundled_model, prompts, progress=False),
        mcr.ablation_study(bundled_model, prompts, doses=[0.0, 1.0]),
        mcr.logit_lens(bundled_model, prompts, progress=False),
        mcr.experiments.profile_training(
            "tiny", prompts, [0, 512, 724, 1024, 1448, 2048, 2896, 20000], progress=False
        ),
    ]
    return report(runs, folder / "report.html", bundled_model, texts[0])


@pytest.fixture(scope="module")
def page_of_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small profile, for what any figure shows."""
    return report(valley(), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def page_of_many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = [valley(model=f"organisation/a-model-with-a-long-name-{i}") for i in range(9)]
    return report(runs, tmp_path_factory.mktemp("report") / "report.html")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_every_figure_is_drawn_and_nothing_is_cut_or_overlaps(
    page_of_tiny: Path, open_page: Any, width: int, scheme: str
) -> None:
    page = open_page(page_of_tiny, width=width, scheme=scheme)
    wait(page, READY)
    page.evaluate(OPEN)
    wait(page, ALL_READY)
    wait(page, HEADS_READY)
    panels = page.evaluate(PANELS)
    assert len(panels) >= 4 * 5 and min(panels) > 0
    assert page.evaluate(TROUBLE) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".waiting").count() == 0


def test_text_can_be_read_on_light_and_dark_pages(page_of_one: Path, open_page: Any) -> None:
    shown = {}
    for scheme in ("light", "dark"):
        page = open_page(page_of_one, scheme=scheme)
        wait(page, READY)
        shown[scheme] = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, "
            "document.querySelector('.mcr-plot .xtick text').style.fill]"
        )
    assert shown["light"] == ["rgb(255, 255, 255)", "rgb(27, 27, 27)"]
    assert shown["dark"] == ["rgb(22, 22, 22)", "rgb(228, 228, 228)"]


def test_a_window_made_narrow_stacks_the_panels(page_of_one: Path, open_page: Any) -> None:
    page = open_page(page_of_one)
    wait(page, READY)
    height = "document.querySelector('.mcr-plot').clientHeight"
    wide = page.evaluate(height)
    page.set_viewport_size({"width": 400, "height": 900})
    wait(page, f"{height} > {wide + 300}")
    assert page.evaluate(TROUBLE) == []


def test_pointing_at_a_head_names_it(page_of_one: Path, open_page: Any) -> None:
    page = open_page(page_of_one)
    wait(page, READY)
    heads = page.locator(".mcr-plot:has(.hm)").first
    heads.scroll_into_view_if_needed()
    box = heads.locator(".nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.97, steps=3)
    # It follows the pointer with a little delay.
    heads.locator(".hoverlayer .hovertext", has_text="layer 0, head 3").wait_for()


def test_a_large_profile_is_drawn_on_a_narrow_page(open_page: Any, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).uniform(size=(64, 48, 64))
    ratio = [1.0, 1.0, *[300.0] * 40, *[3.0] * 7]
    large = made_profile(ratio, [0.9, 0.9, *[0.1] * 40, *[0.8] * 7], sink_score=scores, n_prompts=64)
    page = open_page(report(large, tmp_path / "large.html"), width=400)
    wait(page, READY)
    assert min(page.evaluate(PANELS)) > 0
    assert page.evaluate(TROUBLE) == []


@pytest.mark.parametrize("width", [1280, 400])
def test_many_profiles_with_long_names_keep_their_room(
    page_of_many: Path, open_page: Any, width: int
) -> None:
    page = open_page(page_of_many, width=width)
    wait(page, READY)
    assert page.evaluate(TROUBLE) == []
    assert page.evaluate("document.querySelector('.mcr-plot')._fullLayout._size.h") > 350
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_hostile_names_are_text_and_run_nothing(open_page: Any, tmp_path: Path) -> None:
    hostile = valley(
        model=ATTACK,
        revision=ATTACK,
        prompts={"source": ATTACK, "digest": ATTACK},
        failed_checks={ATTACK: ATTACK},
        versions={ATTACK: ATTACK},
    )
    hostile.data.attrs[ATTACK] = ATTACK
    path = hostile.save(tmp_path / "hostile.nc")
    for runs in ([path], [path, valley()]):
        page = open_page(report(runs, tmp_path / "hostile.html"))
        wait(page, READY)
        page.evaluate(OPEN)
        page.wait_for_timeout(500)
        assert page.evaluate("window.bad") is None
        assert page.locator("img").count() == 0
        assert "<img src=x" in page.locator("body").inner_text()
    # The legend of the comparison, in the figure itself.
    assert "<img src=x" in page.locator(".mcr-plot .legendtext").first.text_content()


def test_the_page_forbids_requests_by_itself(chromium: Any, page_of_one: Path) -> None:
    """If anything ever ran, it could still not call anybody."""
    page = chromium.new_page()
    page.goto(page_of_one.as_uri())
    refused = page.evaluate(
        """new Promise(done => {
            document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));
            const image = new Image();
            image.onload = () => done('allowed');
            image.src = 'file:///nowhere.png';
            setTimeout(() => done('nothing'), 3000);
        })"""
    )
    page.close()
    assert refused == "img-src"
