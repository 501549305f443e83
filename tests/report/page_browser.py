"""A real browser for the tests of the page; a module names it in `pytest_plugins`."""

from __future__ import annotations

import shutil
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
