"""The listening page in a real browser: what is played, and walked to."""

from __future__ import annotations

import shlex
import shutil

import pytest
from page_parts import cell, chosen, plays, texts, until
from run_folders import AWKWARD, NASTY, SCORES, make_run

from soundgan import report

pytest_plugins = ["page_browser"]
pytestmark = pytest.mark.slow


def test_a_click_plays_and_the_next_one_stops_it(opened, tmp_path):
    tab = opened(report.write_page(make_run(tmp_path / "run", seconds=3)))
    assert tab.locator("audio").count() == 1
    cell(tab, "b", "epoch 2").click()
    plays(tab, "/samples/epoch_0002/b.wav")
    assert tab.locator("#play").inner_text() == "Pause"
    assert tab.locator(".playing").get_attribute("aria-label") == "b, epoch 2"
    cell(tab, "a", "original").click()
    plays(tab, "/samples/original/a.wav")
    assert tab.locator(".playing").get_attribute("aria-label") == "a, original"
    assert tab.evaluate("audio.duration") == pytest.approx(3.0, abs=0.01)
    tab.locator("#position").evaluate("e => { e.value = .5; e.dispatchEvent(new Event('input')); }")
    assert tab.evaluate("audio.currentTime") == pytest.approx(1.5, abs=0.2)
    cell(tab, "a", "original").click()  # the same one again: it rests
    until(tab, "audio.paused && !document.querySelector('.playing')")
    cell(tab, "a", "original").click()
    plays(tab, "/samples/original/a.wav")
    tab.keyboard.press("ArrowRight")  # to walk away is to stop
    until(tab, "audio.paused && !document.querySelector('.playing')")


def test_it_ends(opened, tmp_path):
    tab = opened(report.write_page(make_run(tmp_path / "run")))
    tab.evaluate("audio.addEventListener('ended', () => { window.ended = true; })")
    cell(tab, "b", "epoch 3").click()
    until(tab, "window.ended && $('play').textContent === 'Play'")


def test_arrows_walk_and_stop_at_the_edges(opened, tmp_path):
    tab = opened(report.write_page(make_run(tmp_path / "run")))
    assert chosen(tab) == "a, epoch 3"
    tab.locator("#skip").focus()
    tab.keyboard.press("Enter")
    walked = []
    for key in ("Right", "Left", "Down", "Down", "Down", "Home", "Left", "Up", "End"):
        tab.keyboard.press(key if key in ("Home", "End") else f"Arrow{key}")
        walked.append(chosen(tab))
        assert tab.evaluate("document.activeElement.ariaLabel") == walked[-1]
        assert tab.locator('.cell[tabindex="0"]').count() == 1
    assert walked == [
        *("a, epoch 3", "a, epoch 2", "b, epoch 2", "c, epoch 2", "c, epoch 2"),
        *("c, original", "c, original", "b, original", "b, epoch 3"),
    ]
    assert tab.evaluate("audio.paused")
    tab.keyboard.press("Space")
    plays(tab, "/epoch_0003/b.wav")
    tab.locator("#walking").check()
    tab.locator('.cell[tabindex="0"]').focus()
    tab.keyboard.press("ArrowUp")
    plays(tab, "/epoch_0003/a.wav")


def test_a_b_c_compare(opened, tmp_path):
    tab = opened(report.write_page(make_run(tmp_path / "run")))
    cell(tab, "c", "epoch 2").click()
    for key, path in {"a": "original", "b": "real", "c": "epoch_0002"}.items():
        tab.keyboard.press(key)
        plays(tab, f"/samples/{path}/c.wav")
        assert tab.locator('#sides [aria-pressed="true"]').count() == 1
    tab.locator("#find").press("a")  # here it is a letter
    assert tab.locator("#find").input_value() == "a"
    assert chosen(tab) == "a, epoch 2"


def test_the_slider_changes_the_set(opened, tmp_path):
    tab = opened(report.write_page(make_run(tmp_path / "run", epochs=(1, 5, 20))))
    picture = tab.get_by_role("rowheader", name="b").locator("img")
    until(tab, "document.querySelectorAll('.name img')[1].src.includes('epoch_0020')")
    slider = tab.get_by_label("Epoch", exact=True)
    slider.focus()
    tab.keyboard.press("ArrowLeft")
    until(tab, "document.querySelectorAll('.name img')[1].src.includes('epoch_0005')")
    assert slider.get_attribute("aria-valuetext") == "epoch 5"
    assert tab.locator("#epoch-now").inner_text() == "5"
    assert chosen(tab) == "a, epoch 5"
    assert tab.locator("#big").get_attribute("src") == "samples/epoch_0005/a.png"
    assert texts(tab.locator(".heads .shown")) == ["5"]
    picture.click()  # the pictures are those of the set shown, and so is what they play
    plays(tab, "/epoch_0005/b.wav")


def test_the_filter_hides_rows(opened, tmp_path):
    tab = opened(report.write_page(make_run(tmp_path / "run", names=["dog_bark", "rain", "Dogma"])))
    tab.get_by_label("Classes").fill("dog")
    assert texts(tab.locator(".name:visible")) == ["dog_bark", "Dogma"]
    assert tab.locator("#found").inner_text() == "2 of 3"
    cell(tab, "dog_bark", "epoch 1").click()
    tab.keyboard.press("ArrowDown")
    assert chosen(tab) == "Dogma, epoch 1"
    tab.get_by_label("Classes").fill("rai")
    assert chosen(tab) == "rain, epoch 1"


@pytest.mark.parametrize("name", [NASTY, AWKWARD])
def test_any_name_is_text_and_plays(opened, tmp_path, name):
    folder = tmp_path / "a #%?" / f"run {AWKWARD}"
    tab = opened(report.write_page(make_run(folder, names=["a", name], scores=SCORES)))
    assert tab.title() == tab.locator("h1").inner_text() == folder.name
    cell_ = tab.locator(".body.row").nth(1).locator(".cell").last
    cell_.click()
    until(tab, "audio.currentTime > 0")
    assert tab.evaluate("decodeURIComponent(audio.src)").endswith(f"/epoch_0003/{name}.wav")
    assert tab.locator("#now").inner_text() == name
    assert chosen(tab) == f"{name}, epoch 3"
    assert tab.locator("#big").evaluate("e => e.decode().then(() => e.naturalWidth)") == 10
    assert tab.locator("#commands code").nth(1).inner_text().split(" --label ")[1] == (
        f"{shlex.quote(name)} --count 8"
    )
    assert NASTY in texts(tab.get_by_role("table", name="by class").locator("tbody th"))
    assert tab.locator("img[src=x]").count() == 0
    until(tab, "n => new URLSearchParams(location.hash.slice(1)).get('class') === n", name)
    tab.reload()  # the address holds the name too
    assert tab.locator("#now").inner_text() == name


def test_a_sound_that_lacks_is_said(opened, tmp_path):
    run_dir = make_run(tmp_path / "run")
    (run_dir / "samples" / "epoch_0002" / "b.wav").unlink()
    (run_dir / "samples" / "epoch_0002" / "b.png").unlink()
    shutil.rmtree(run_dir / "samples" / "original")
    tab = opened(report.write_page(run_dir))
    assert cell(tab, "b", "epoch 2").get_attribute("aria-disabled") == "true"
    cell(tab, "b", "epoch 2").click(force=True)  # chosen it can be
    assert tab.locator("#said").inner_text() == "There is no sound of b in epoch 2."
    assert tab.locator("#no-picture").is_visible()
    assert tab.get_by_role("button", name="Original").is_disabled()
    assert tab.locator(".body.row").first.locator(".cell").count() == 4
    (run_dir / "samples" / "epoch_0003" / "c.wav").write_bytes(b"no sound")
    cell(tab, "c", "epoch 3").click()
    until(tab, "document.getElementById('said').textContent.includes('damaged')")
