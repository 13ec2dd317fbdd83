"""A real browser for what only a browser can tell: Chromium, driven by Playwright, off the network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; what needs it is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the test extra")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs a Chromium on the PATH: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file; afterwards nothing may have been complained about, asked for or run that should not."""
    pages: list[Any] = []
    trouble: list[str] = []

    def opened(path: Path, *, width: int = 1280, scheme: str = "light") -> Any:
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        address = path.as_uri()

        def asked(request: Any) -> None:
            if request.url != address and not request.url.startswith(("data:", "blob:")):
                trouble.append(f"request: {request.url}")

        def said(message: Any) -> None:
            if message.type == "error":
                trouble.append(f"console: {message.text}")

        def asked_user(dialog: Any) -> None:
            trouble.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("request", asked)
        page.on("console", said)
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", asked_user)
        page.goto(address)
        return page

    yield opened
    for page in pages:
        page.close()
    assert trouble == []
