"""All runs side by side, and a run in a notebook, in a real browser that fetches nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from page_parts import cell, plays, texts, until
from run_folders import NASTY, SCORES, make_run

from soundgan import report
from soundgan.report import page

pytest_plugins = ["page_browser"]
pytestmark = pytest.mark.slow


def test_runs_stand_side_by_side(opened, tmp_path):
    make_run(tmp_path / "one", names=["a", "b"])
    better = SCORES | {"rows": {"generated": {"accuracy": 0.5}}}
    report.write_page(make_run(tmp_path / "two #2", names=["b", "c"], epochs=(1, 7), scores=better))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    make_run(tmp_path / ".cache" / "hidden")
    path = report.write_overview(tmp_path)
    assert path == tmp_path / "index.html"
    tab = opened(path)
    assert texts(tab.locator(".heads > div")) == ["class", "one\nepoch 3", "two #2\nepoch 7"]
    assert texts(tab.locator(".name")) == ["a", "b", "c"]
    problem = tab.locator("#problems").inner_text()
    assert problem.startswith("broken is left out.")
    assert "is damaged" in problem
    for name, folder, epoch in (("one", "one", 3), ("two #2", "two%20%232", 7)):
        cell(tab, "b", f"{name}, epoch {epoch}").click()
        plays(tab, f"/{folder}/samples/epoch_{epoch:04d}/b.wav")
        tab.keyboard.press("b")
        plays(tab, f"/{folder}/samples/real/b.wav")
    first = tab.locator(".body.row").nth(1).locator("img")
    assert [first.nth(k).get_attribute("src") for k in range(2)] == [
        "one/samples/epoch_0003/b.png",
        "two%20%232/samples/epoch_0007/b.png",
    ]
    assert cell(tab, "c", "one, epoch 3").get_attribute("aria-disabled") == "true"
    table = tab.get_by_role("table", name="Scores of what each run generates")
    table.get_by_role("button", name="accuracy").click()
    assert texts(table.locator("tbody th")) == ["two #2", "one"]
    table.get_by_role("link", name="two #2").click()
    assert tab.locator("h1").inner_text() == "two #2"


@pytest.mark.parametrize(("numbers", "said"), [((43, 80), True), ((43, 43), False)])
def test_runs_of_unequal_numbers_of_sounds(opened, tmp_path, numbers, said):
    for k, number in enumerate(numbers):
        make_run(tmp_path / f"run {k}", epochs=(1,), scores=SCORES | {"at_a_time": number})
    tab = opened(report.write_overview(tmp_path))
    notes = [text for text in texts(tab.locator("#scores p")) if "(43, 80)" in text]
    assert len(notes) == said
    assert all("compare them only between runs of equally many" in note for note in notes)


def test_of_many_runs_some_are_chosen(opened, tmp_path):
    for k in range(6):
        make_run(tmp_path / f"run {k}", epochs=(1,), scores=None)
    tab = opened(report.write_overview(tmp_path))
    tab.get_by_role("checkbox", name="run 0").uncheck()
    tab.get_by_role("checkbox", name="run 5").check()
    heads = texts(tab.locator(".heads strong"))
    assert heads == ["run 1", "run 2", "run 3", "run 5"]
    tab.wait_for_timeout(300)
    tab.reload()
    assert texts(tab.locator(".heads strong")) == heads
    for k in (1, 2, 3, 5):
        tab.get_by_role("checkbox", name=f"run {k}").uncheck()
    assert not tab.locator("#grid").is_visible()


def test_no_runs_yet(opened, tmp_path):
    tab = opened(report.write_overview(tmp_path))
    assert tab.locator("#empty").inner_text().startswith("There are no runs here yet")


def notebook(tmp_path: Path, monkeypatch, run_dir: Path) -> Path:
    """What show() displays, inside a page that stands for the notebook."""
    display = pytest.importorskip("IPython.display")
    displayed: list = []
    monkeypatch.setattr(display, "display", displayed.append)
    report.show(str(run_dir))
    path = tmp_path / "notebook.html"
    path.write_text(
        "<!doctype html><title>n</title><link rel=icon href=data:,>" + displayed[0].data
    )
    return path


def test_a_notebook_plays_without_files(opened, tmp_path, monkeypatch):
    run_dir = make_run(tmp_path / "run", names=["a", NASTY])
    path = notebook(tmp_path, monkeypatch, run_dir)
    shutil.rmtree(run_dir)
    tab = opened(path)
    frame = tab.frame_locator("iframe")
    frame.locator(".body.row").nth(1).locator(".cell").last.click()
    inner = tab.frames[1]
    until(inner, "audio.currentTime > 0 && audio.src.startsWith('data:audio/flac')")
    assert inner.locator("#now").inner_text() == NASTY
    assert inner.evaluate("document.getElementById('big').naturalWidth") == 10
    assert inner.evaluate("origin") == "null"
    assert not inner.locator("#follow").is_visible()
    assert [url for url in tab.requests if url.startswith("file:")] == [path.resolve().as_uri()]


def test_a_notebook_stays_small(opened, tmp_path, monkeypatch):
    run_dir = make_run(tmp_path / "run", epochs=range(1, 21))
    monkeypatch.setattr(page, "SHOW_MEGABYTES", 0.02)
    small = page.embedded_page(run_dir)
    uris = re.findall(r'"(data:(?:audio|image)[^"]*)"', small)
    assert 10_000 < sum(map(len, uris)) <= 20_000
    tab = opened(notebook(tmp_path, monkeypatch, run_dir))
    heads = texts(tab.frame_locator("iframe").locator(".heads > div"))
    left = 20 - len(heads[3:])
    assert heads[:3] == ["class\npictures: epoch 20", "original", "round trip"]
    assert heads[3:] == [str(e) for e in range(left + 1, 21)]
    said = tab.frame_locator("iframe").locator("#problems").inner_text()
    assert said.startswith(f"{left} older epochs are left out")
    monkeypatch.setattr(page, "SHOW_MEGABYTES", 1.5 * len(uris[0]) / 1e6)
    least = page.embedded_page(run_dir)  # not even the newest set fits
    assert [k for k in ("a", "b") if f'"samples/epoch_0020/{k}.wav": "data:' in least] == ["a"]
