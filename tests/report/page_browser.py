"""A real browser for the tests of the page; a module names it in `pytest_plugins`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    if BROWSER is None:
        pytest.skip("no browser: install chromium or google-chrome (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=arguments)
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """A function that opens a file; at the end, nothing may have failed or left the disk."""
    pages, problems, requests = [], [], []

    def open_file(path: Path, first: str = "", **options: object):
        tab = browser.new_context(
            **({"viewport": {"width": 1280, "height": 900}} | options)
        ).new_page()
        tab.on("console", lambda m: problems.append(m.text) if m.type != "log" else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
        tab.on("request", lambda request: requests.append(request.url))
        tab.set_default_timeout(5000)
        tab.add_init_script(first)
        tab.goto(path.resolve().as_uri())
        tab.requests, tab.problems = requests, problems
        pages.append(tab)
        return tab

    yield open_file
    for tab in pages:
        tab.context.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def cell(tab, name: str, column: str):
    """The cell of a class in a column ('epoch 2', 'original', 'round trip', or of a run)."""
    row = tab.locator(".body.row", has=tab.get_by_role("rowheader", name=name, exact=True))
    return row.locator(f'.cell[aria-label$=", {column}"]')


def chosen(tab) -> str:
    return tab.locator('[aria-selected="true"]').get_attribute("aria-label")


def until(tab, expression: str, argument: object = None) -> None:
    """Wait for an expression to be true (Playwright's own waiting would need a looser policy)."""
    end = time.monotonic() + 5
    while not tab.evaluate(expression, argument):
        assert time.monotonic() < end, f"never: {expression} {argument or ''}"
        time.sleep(0.02)


def plays(tab, ending: str) -> None:
    """Wait until the file whose address ends so has really been played for some time."""
    until(tab, "end => audio.src.endsWith(end) && audio.currentTime > 0 && !audio.error", ending)


def texts(locator) -> list[str]:
    return [text.strip() for text in locator.all_inner_texts()]
