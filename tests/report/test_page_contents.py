"""The listening page in a real browser: its numbers, how it looks, and how much it loads."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from page_parts import cell, chosen, plays, texts, until
from run_folders import NASTY, SCORES, make_run, make_set

from soundgan import report

pytest_plugins = ["page_browser"]
pytestmark = pytest.mark.slow

AREAS = SCORES | {
    "headline": ["auc"],
    "rows": {
        "generated": {"clips": 40, "auc": 0.93},
        "held-out real": {"clips": 4, "auc": 0.78},
        "held-out real, through the vocoder": {"clips": 4, "auc": 0.52},
    },
}


# ---- numbers ------------------------------------------------------------------------------------


def test_scores_and_their_marks(opened, tmp_path):
    run_dir = make_run(tmp_path / "run")
    (run_dir / "checkpoints").mkdir()
    (run_dir / "best.safetensors").write_bytes(b"")
    tab = opened(report.write_page(run_dir))
    table = tab.get_by_role("table", name="Real and generated")
    assert texts(table.locator("thead th")) == ["sounds", "clips", "accuracy", "kernel"]
    assert texts(table.locator("tbody tr").nth(0).locator("th, td")) == [
        *("held-out real *", "4", "0.950", "0.0100")
    ]
    assert texts(table.locator("tbody tr").nth(1).locator("td")) == ["40", "0.250", "–"]
    assert "*: from few clips" in texts(tab.locator("#scores p"))
    assert "A note with <b>tags</b>." in texts(tab.locator("#scores p"))
    assert texts(tab.locator(".heads > div"))[2:] == ["round trip", "1", "2\nbest", "3"]
    assert texts(tab.locator(".marks .best")) == ["best: 2"]
    assert tab.locator("#commands code").last.inner_text().endswith("--count 8 --weights best")


def test_what_gives_sounds_away(opened, tmp_path):
    run_dir = make_run(tmp_path / "run")
    tab = opened(report.write_page(run_dir))
    table = tab.get_by_role("table", name="What gives them away")
    assert texts(table.locator("thead th")) == [
        *("what judges are shown", "generated", "real", "0.5 to 1")
    ]
    assert [texts(row.locator("th, td"))[:3] for row in table.locator("tbody tr").all()] == [
        ["everything", "0.930\n0.900 to 0.950", "0.520\n0.490 to 0.540"],
        [f"only {NASTY}", "0.500", "0.250"],
    ]
    bars = table.locator(".bar")
    shares = [
        [bar.evaluate(f"bar => bar.style.getPropertyValue('{name}')") for bar in bars.all()]
        for name in ("--own", "--real")
    ]
    # Of the way from 0.5 to 1, and never less than nothing.
    assert [[round(float(share[:-1]), 6) for share in each] for each in shares] == [[86, 0], [4, 0]]
    # Beside real sounds of other sources, in the figures at the head of the page.
    (run_dir / "scores.json").write_text(json.dumps(AREAS))
    tab = opened(report.write_page(run_dir))
    assert texts(tab.locator("#figures div")) == ["auc\n0.930\nreal 0.520"]
    assert "0.5 is chance" in " ".join(texts(tab.locator("#scores p")))


def test_a_table_is_sorted_from_the_keyboard(opened, tmp_path):
    tab = opened(report.write_page(make_run(tmp_path / "run")))
    table = tab.get_by_role("table", name="Generated, by class")
    orders = []
    for _ in range(2):
        table.get_by_role("button", name="accuracy").press("Enter")
        orders.append(texts(table.locator("tbody th")))
    assert orders == [[NASTY, "a", "b"], ["a", NASTY, "b"]]  # what is unknown stays last
    assert table.locator("[aria-sort]").get_attribute("aria-sort") == "ascending"


def test_curves_are_read_by_keys_and_pointer(opened, tmp_path):
    tab = opened(report.write_page(make_run(tmp_path / "run")))
    curve = tab.locator('[data-name="critic_loss"]')
    curve.locator("svg").focus()
    for key in ("Home", "ArrowRight", "ArrowRight"):
        tab.keyboard.press(key)
    assert curve.locator("output").inner_text() == "epoch 3: 0.333333"
    assert tab.locator("#read[aria-live=polite]").inner_text() == "critic loss: epoch 3: 0.333333"
    gap = tab.locator('[data-name="l1"]')
    gap.locator("svg").focus()
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#read").inner_text() == "l1: epoch 2: no value"
    assert gap.locator("polyline").count() == 2  # epoch 1, and epochs 3 to 5
    assert gap.locator("circle.dot").count() == 4
    box = curve.locator("svg").bounding_box()
    tab.mouse.move(box["x"] + box["width"] - 5, box["y"] + 40)
    assert curve.locator("output").inner_text() == "epoch 5: 0.2"
    assert tab.locator('[data-name="coverage"] circle.dot').count() == 1


def test_constants_stand_by_part(opened, tmp_path):
    tab = opened(report.write_page(make_run(tmp_path / "run")))
    constants = tab.locator('details[data-name="Every constant"]')
    constants.locator("summary").click()
    assert texts(constants.locator("h3")) == [
        "sound: Spectrogram",
        "generator: ConvolutionalGenerator",
        "critic: ConvolutionalCritic",
        "objective: WassersteinGP",
        "optimiser: Adam",
    ]
    run, sound = (texts(constants.locator("dl").nth(k).locator("div")) for k in range(2))
    assert "epochs\n9" in run
    assert "conditional\ntrue" in run
    assert "n mels\n80" in sound
    assert "changed" not in " ".join(texts(tab.locator("#about dt")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, ""),
        ('{"rows": ', "scores.json is damaged"),
        ('{"rows": {"generated": 3}}', "scores.json is damaged"),
        ("[1]", "scores.json is damaged"),
        ('{"rows": {"generated": {"kernel": NaN}}, "best": 3, "few": 1, "notes": {}}', ""),
    ],
)
def test_without_whole_scores_there_is_still_a_page(opened, tmp_path, text, said):
    run_dir = make_run(tmp_path / "run", scores=None)
    if text:
        (run_dir / "scores.json").write_text(text)
    tab = opened(report.write_page(run_dir))
    assert (said or "x") in (tab.locator("#problems").inner_text() or "x")
    assert tab.locator("#scores").is_visible() == ("NaN" in (text or ""))
    cell(tab, "a", "epoch 1").click()
    plays(tab, "epoch_0001/a.wav")


@pytest.mark.parametrize("epochs", [(), (1,)])
def test_a_young_run(opened, tmp_path, epochs):
    run_dir = make_run(tmp_path / "run", epochs=epochs, scores=None)
    if not epochs:
        shutil.rmtree(run_dir / "samples")
        (run_dir / "log.csv").unlink()
    tab = opened(report.write_page(run_dir))
    assert tab.locator("#empty").is_visible() == (not epochs)
    assert tab.locator("#grid").is_visible() == bool(epochs)
    assert not tab.locator("#epochs").is_visible()
    assert "--epochs 9" in tab.locator("#commands code").first.inner_text()


def test_without_classes(opened, tmp_path):
    names = [f"sample_{k}" for k in (10, 0, 2)]
    run_dir = make_run(tmp_path / "run", names=names, conditional=False)
    tab = opened(report.write_page(run_dir))
    assert texts(tab.locator(".name")) == ["sample_0", "sample_2", "sample_10"]
    assert "--label" not in tab.locator("#commands code").nth(1).inner_text()
    cell(tab, "sample_10", "epoch 3").click()
    plays(tab, "/sample_10.wav")


# ---- how it looks, and how much it loads --------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_down_only(opened, tmp_path, scheme):
    names = ["a", "b" * 60, "c d e f g h i"]
    run_dir = make_run(tmp_path / "run", names=names, epochs=range(1, 31))
    report.write_page(run_dir)
    options = {"viewport": {"width": 375, "height": 812}, "color_scheme": scheme}
    for path in (run_dir / "index.html", report.write_overview(tmp_path)):
        tab = opened(path, **options)
        tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert tab.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        assert tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (
            scheme == "dark"
        )
        ground, text = tab.evaluate(
            "['backgroundColor', 'color'].map(k => getComputedStyle(document.body)[k])"
            ".map(c => Math.max(...c.match(/\\d+/g).map(Number)))"
        )
        assert (ground < 40 and text > 200) if scheme == "dark" else (ground > 240 and text < 50)


def test_only_what_is_looked_at_is_loaded(opened, tmp_path):
    names = [f"class {k:02d}" for k in range(50)]
    tab = opened(report.write_page(make_run(tmp_path / "run", names, range(1, 101))))
    tab.wait_for_timeout(500)
    assert tab.locator(".cell").count() == 50 * 102
    loaded = [url for url in tab.requests if url.endswith((".png", ".wav"))]
    assert all("/epoch_0100/" in url and url.endswith(".png") for url in loaded)
    assert 3 <= len(loaded) <= 12
    tab.locator("#grid").evaluate("grid => { grid.scrollTop = grid.scrollHeight; }")
    until(tab, "document.querySelectorAll('.name img')[49].src")
    tab.wait_for_timeout(200)
    assert len({url for url in tab.requests if url.endswith(".png")}) <= 24


def test_reloading_keeps_the_place_and_never_cuts_a_sound(opened, tmp_path):
    run_dir = make_run(tmp_path / "run", seconds=3)
    # A minute is a quarter of a second here, until the page was loaded once more.
    soon = "const slow = setInterval; window.setInterval = (f, ms) => slow(f, ms / 240)"
    first = f"if (!sessionStorage.seen) {{ sessionStorage.seen = 1; {soon} }}"
    tab = opened(report.write_page(run_dir), first=first)
    cell(tab, "b", "epoch 2").click()
    tab.evaluate("window.mine = true; audio.loop = true")
    plays(tab, "epoch_0002/b.wav")
    tab.locator("#again").check()
    tab.locator('.cell[tabindex="0"]').focus()
    make_set(run_dir / "samples" / "epoch_0004", ["a", "b", "c"])
    report.write_page(run_dir)
    time.sleep(1)
    assert tab.evaluate("window.mine")
    with tab.expect_event("load"):
        tab.evaluate("audio.pause()")
    assert not tab.evaluate("window.mine")
    assert chosen(tab) == "b, epoch 2"
    assert tab.evaluate("document.activeElement.ariaLabel") == "b, epoch 2"
    assert tab.locator("#again").is_checked()
    assert texts(tab.locator(".heads > div"))[-1] == "4"
