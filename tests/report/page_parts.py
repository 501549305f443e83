"""Parts of the open page, and waiting for it."""

from __future__ import annotations

import time


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
