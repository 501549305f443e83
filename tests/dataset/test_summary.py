"""What is said before training: how much is used of how much, copies, and what was left out."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile

from soundgan import dataset
from soundgan.config_io import change
from soundgan.console import plural
from soundgan.dataset.summary import by_reason


def said(cfg) -> list[str]:
    found = dataset.find_files(cfg.data_dir)
    return dataset.describe(cfg, dataset.load_clips(cfg, found), found).splitlines()


def test_numbers_and_nouns():
    assert plural(1, "clip") == "1 clip"
    assert plural(2, "clip") == "2 clips"
    assert plural(1, "class") == "1 class"
    assert plural(0, "class") == "0 classes"


def test_seconds_used_beside_seconds_there(small, sounds):
    """Half a second a file, of which a clip is 31 * 64 samples at 8 kHz, 0.248 s."""
    lines = said(small)
    assert lines[0] == f"18 clips in 3 classes below {sounds}"
    assert lines[1] == "  high       6 clips        1.5 s of       3.0 s  8000 Hz"
    assert lines[4] == (
        "  Of each file, the first 0.2 s are used, 4.5 s of 9.0 s in all: --sound.cut consecutive "
        "uses all of it."
    )
    lines = said(change(small, {"sound.cut": "consecutive"}))
    assert lines[1] == "  high      12 clips        3.0 s  8000 Hz"
    assert len(lines) == 4


def test_all_is_not_offered_where_little_is_cut_off(small, sounds):
    for path in sounds.glob("*/*.wav"):
        wave, rate = soundfile.read(path)
        soundfile.write(path, wave[:3000], rate)
    assert not any("consecutive" in line for line in said(small))


def test_one_clip_is_one(small, sounds):
    shutil.rmtree(sounds / "low")
    shutil.rmtree(sounds / "mid")
    for path in list((sounds / "high").glob("[1-5].wav")):
        path.unlink()
    (sounds / "high" / "9.wav").write_bytes(b"")
    lines = said(small)
    assert lines[0].startswith("1 clip in 1 class below ")
    assert lines[1].startswith("  high        1 clip ")
    assert lines[-2:] == ["Left out: 1 file", "  1 x empty file (0 bytes) (such as high/9.wav)"]


def test_copies_are_said(small, sounds):
    shutil.copy(sounds / "low" / "0.wav", sounds / "low" / "a.wav")
    assert "  1 clip is a copy of another (such as low/a.wav = low/0.wav)" in said(small)
    soundfile.write(sounds / "mid" / "b.flac", soundfile.read(sounds / "low" / "0.wav")[0], 8000)
    lines = said(small)
    assert "  2 clips are copies of others (such as low/a.wav = low/0.wav)" in lines
    other = "  1 of them lies in another class than the first of its kind "
    assert f"{other}(such as mid/b.flac = low/0.wav)" in lines


def test_left_out_is_counted_by_files_and_reasons_without_their_numbers(small, sounds):
    for number, seconds in enumerate((1, 2)):
        wave = np.concatenate([np.zeros(8000 * seconds), soundfile.read(sounds / "low/0.wav")[0]])
        soundfile.write(sounds / "low" / f"late{number}.wav", wave, 8000)
    (sounds / "low" / "page.wav").write_bytes(b"<html>")
    lines = said(small)
    assert lines[-3:-1] == [
        "Left out: 3 files",
        "  2 x silent in its first 0.2 s of 1.5 s: --sound.cut consecutive uses all of it "
        "(such as low/late0.wav)",
    ]
    lines = said(change(small, {"sound.cut": "consecutive"}))
    assert lines[-3:] == [
        "Left out: 1 file, and parts of 2 files",
        "  2 x silent (mixed to mono, it stays below -80 dBFS) "
        "(such as low/late0.wav from 0.0 to 1.0 s)",
        "  1 x a web page or XML, not audio (a failed download?) (such as low/page.wav)",
    ]


@pytest.mark.parametrize("many", [3, 12])
def test_many_reasons(many):
    left_out = [(f"{k}.wav", "reason " + "abcdefghijkl"[k]) for k in range(many)]
    left_out += [("x.wav", "reason a"), ("x.wav from 1.0 to 2.0 s", "reason a")]
    reasons = by_reason(left_out)
    assert reasons[0] == (2, "0.wav", "reason a")
    assert len(reasons) == many
