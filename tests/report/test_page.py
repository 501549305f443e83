"""The listening page in a real browser: what is heard, walked to, shown, and never fetched."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import struct
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import config
import page
import report
from config import UserError

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NASTY = "<img src=x onerror=alert(1)>"
AWKWARD = "#%?&\"' 狗 %41"
SCORES = {
    "recipe": "sn-wgan-gp",
    "epoch": 3,
    "weights": "last",
    "on": "sound, by griffin-lim",
    "held_out": {"clips": 4, "training_clips": 36, "by": "every tenth"},
    "rows": {
        "held-out real": {"clips": 4, "accuracy": 0.95, "kernel": 0.01},
        "generated": {"clips": 40, "accuracy": 0.25, "kernel": None, "kernel_low": 0.1},
    },
    "few": ["held-out real"],
    "per_class": {"a": {"accuracy": 0.5}, "b": {"accuracy": None}, NASTY: {"accuracy": 0.75}},
    "notes": ["A note with <b>tags</b>."],
    "best": {"epoch": 2, "kernel": 0.3},
    "seconds": 6.2,
}


def png(path: Path, width: int = 10, height: int = 3) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    lines = zlib.compress((b"\0" + b"\x80" * width) * height)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def make_set(
    folder: Path, names: Sequence[str], pictures: bool = True, seconds: float = 0.1
) -> None:
    folder.mkdir(parents=True)
    wave = 0.1 * np.sin(np.arange(int(8000 * seconds)) / 3)
    soundfile.write(folder / ".wav", wave, 8000, format="WAV", subtype="PCM_16")
    png(folder / ".png")
    for name in names:
        os.link(folder / ".wav", folder / f"{name}.wav")
        if pictures:
            os.link(folder / ".png", folder / f"{name}.png")


def make_run(
    run_dir: Path,
    names: Sequence[str] = ("a", "b", "c"),
    epochs: Sequence[int] = (1, 2, 3),
    conditional: bool = True,
    scores: object = SCORES,
    seconds: float = 0.1,
) -> Path:
    """The folder of a run as a training leaves it, with sounds of `seconds` at 8 kHz."""
    cfg = replace(config.RECIPES["sn-wgan-gp"], epochs=9, conditional=conditional)
    run_dir.mkdir(parents=True)
    content = {
        "recipe": cfg.recipe,
        "classes": list(names) if conditional else [],
        "config": config.to_dict(cfg),
        "versions": {"python": "3.11", "torch": "2"},
        "git_revision": None,
        "vocoder_used": "griffin-lim",
        "device": "cpu",
    }
    (run_dir / "config.json").write_text(json.dumps(content))
    make_set(run_dir / "samples" / "original", names, pictures=False, seconds=seconds)
    make_set(run_dir / "samples" / "real", names, seconds=seconds)
    for epoch in epochs:
        make_set(run_dir / "samples" / f"epoch_{epoch:04d}", names, seconds=seconds)
    rows = [f"{e},{e * 4},1.5,{1 / e:.6g},{'nan' if e == 2 else e / 7:.6}" for e in range(1, 6)]
    (run_dir / "log.csv").write_text("\n".join(["epoch,step,seconds,critic_loss,l1", *rows]) + "\n")
    if scores is not None:
        (run_dir / "scores.json").write_text(json.dumps(scores))
        (run_dir / "scores.csv").write_text(
            "epoch,kernel,coverage\n1,0.5,\n2,0.3,nan\n3,0.4,0.25\n"
        )
    return run_dir


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


# ---- what is written ----------------------------------------------------------------------------


def test_it_is_written_whole_and_names_no_run_that_is_none(tmp_path):
    run_dir = make_run(tmp_path / "run")
    path = report.write_page(run_dir)
    assert path == run_dir / "index.html"
    text = path.read_text()
    assert "PAGE_DATA" not in text
    assert "_HASH" not in text
    assert not list(run_dir.glob("*.tmp"))
    assert report.write_page(run_dir).read_text() == text
    with pytest.raises(UserError, match=r"holds no config\.json"):
        report.write_page(tmp_path)


def test_nothing_in_the_data_ends_its_element():
    filled = page._fill({"name": "</script><script>alert(1)</script>&\u2028\udcff", "x": math.nan})
    (data,) = page.re.findall(r'id="data">(.*?)</script>', filled)
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data) == {
        "name": "</script><script>alert(1)</script>&\u2028\udcff",
        "x": None,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 8, "tf32": False, "output_range": (-12.5, 2.0), "data_dir": "my 'sounds'"},
        {"critic_dropout": (), "generator_channels": (64, 32), "frames": 64, "run_name": "a b"},
        {"attention": 2, "device": "cuda:1", "seed": 7, "output_dir": "/tmp/o"},
    ],
)
@pytest.mark.parametrize("recipe", ["sn-wgan-gp", "lofi-wgan"])
def test_the_command_continues_the_very_run(recipe, changes):
    if recipe == "lofi-wgan":
        changes = {
            k: v for k, v in changes.items() if k in ("batch_size", "critic_dropout", "seed")
        }
    cfg = replace(config.RECIPES[recipe], **changes)
    command = page.train_command(cfg.run_dir, json.loads(json.dumps(config.to_dict(cfg))), 999)
    words = shlex.split(command)
    assert words[:2] == ["python", "train.py"]
    again = config.parse(words[2:])
    assert again.run_dir == cfg.run_dir
    assert replace(again, run_name=cfg.run_name) == replace(cfg, epochs=999)


def test_labels_are_quoted():
    labels = page.commands(Path("r"), {}, 1, ["a", "it's", "-x y"])["labels"]
    assert shlex.split(labels["it's"]) == ["--label", "it's"]
    assert shlex.split(labels["-x y"]) == ["--label=-x y"]


# ---- listening ----------------------------------------------------------------------------------


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


# ---- numbers ------------------------------------------------------------------------------------


def test_scores_and_their_marks(opened, tmp_path):
    run_dir = make_run(tmp_path / "run")
    (run_dir / "checkpoints").mkdir()
    (run_dir / "checkpoints" / "best.pt").write_bytes(b"")
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


# ---- all runs, and a notebook -------------------------------------------------------------------


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
    monkeypatch.setattr(config, "SHOW_MEGABYTES", 0.02)
    small = page.embedded_page(run_dir)
    uris = page.re.findall(r'"(data:(?:audio|image)[^"]*)"', small)
    assert 10_000 < sum(map(len, uris)) <= 20_000
    tab = opened(notebook(tmp_path, monkeypatch, run_dir))
    heads = texts(tab.frame_locator("iframe").locator(".heads > div"))
    left = 20 - len(heads[3:])
    assert heads[:3] == ["class\npictures: epoch 20", "original", "round trip"]
    assert heads[3:] == [str(e) for e in range(left + 1, 21)]
    said = tab.frame_locator("iframe").locator("#problems").inner_text()
    assert said.startswith(f"{left} older epochs are left out")
    monkeypatch.setattr(config, "SHOW_MEGABYTES", 1.5 * len(uris[0]) / 1e6)
    least = page.embedded_page(run_dir)  # not even the newest set fits
    assert [k for k in ("a", "b") if f'"samples/epoch_0020/{k}.wav": "data:' in least] == ["a"]


def test_outside_a_notebook_the_way_is_said(tmp_path, monkeypatch):
    run_dir = make_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(UserError, match=r"open .*index\.html in a browser"):
        report.show(run_dir)
    monkeypatch.undo()
    pytest.importorskip("IPython")
    with pytest.raises(UserError, match=r"holds no config\.json"):
        report.show(tmp_path)
