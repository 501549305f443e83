"""Long recordings in consecutive clips, and stretches of them that are left out."""

from __future__ import annotations

import signal
import struct
import threading
import time

import numpy as np
import pytest
import soundfile
from sound_files import encoded, strongest, tone

import config
from soundgan import dataset
from soundgan.audio import files as audio_files
from soundgan.audio import read_clip
from soundgan.config_io import change
from soundgan.dataset import decoding

RATE = 16384  # of `wavegan`: a clip is a second


@pytest.fixture
def wavegan(tmp_path):
    (tmp_path / "music").mkdir()
    folders = {"data_dir": str(tmp_path / "music"), "output_dir": str(tmp_path / "out")}
    return change(config.RECIPES["wavegan"], folders)


def load(cfg, **changes):
    cfg = change(cfg, changes)
    return dataset.load_clips(cfg, dataset.find_files(cfg.data_dir, loose=True))


def noise(seconds: float, rate: int = RATE) -> np.ndarray:
    return 0.2 * np.random.default_rng(0).standard_normal(int(seconds * rate))


def test_a_long_recording_becomes_consecutive_clips(long_file, tmp_path, monkeypatch):
    folders = {"data_dir": str(long_file), "output_dir": str(tmp_path / "out")}
    cfg = change(config.RECIPES["wavegan"], folders)
    asked = []
    read = soundfile.SoundFile.read

    def counting(self, frames=-1, *rest, **how):
        asked.append(frames)
        return read(self, frames, *rest, **how)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    clips = dataset.load_clips(cfg, dataset.find_files(long_file, loose=True))
    assert clips.data.shape == (60, 1, 16384)
    assert max(asked) < 40 * 44100  # streamed: never the whole file
    for second in (0, 31, 32, 59):  # 32 begins a part of its own
        spectrum = np.abs(np.fft.rfft(clips.data[second, 0] * np.hanning(16384)))
        centre = (spectrum**2 * np.arange(len(spectrum))).sum() / (spectrum**2).sum()
        assert centre == pytest.approx(200 + 40 * (second + 0.5), abs=3)  # Hz, one a bin
    joined = clips.data[:, 0].reshape(-1)
    jumps = np.abs(np.diff(joined))[16383::16384]  # where one clip ends and the next begins
    assert jumps.max() < np.abs(np.diff(joined)).max() * 1.05


def test_silent_stretches_are_left_out_by_name(wavegan, tmp_path):
    wave = np.zeros(5 * RATE)
    wave[:RATE] = wave[3 * RATE : 4 * RATE] = 0.1
    soundfile.write(tmp_path / "music" / "a.wav", wave, RATE)
    soundfile.write(tmp_path / "music" / "b.wav", np.zeros(70 * RATE), RATE)  # three parts
    clips = load(wavegan)
    assert clips.numbers == [0, 3]
    assert clips.left_out == [
        ("a.wav from 1.0 to 3.0 s", audio_files.SILENT),
        ("a.wav from 4.0 to 5.0 s", audio_files.SILENT),
        ("b.wav", audio_files.SILENT),
    ]


def test_a_silent_beginning_is_said_with_the_length(wavegan, tmp_path):
    wave = np.concatenate([np.zeros(3 * RATE), noise(7)])
    soundfile.write(tmp_path / "music" / "a.wav", wave, RATE)
    [(name, reason)] = load(wavegan, **{"sound.cut": "first"}).left_out
    assert name == "a.wav"
    assert reason.startswith("silent in its first 1.0 s of 10.0 s: --sound.cut consecutive")
    assert load(wavegan).numbers == [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("total", [0, 2**36 - 1, 20_000], ids=["unknown", "absurd", "too short"])
@pytest.mark.parametrize("cut", ["first", "consecutive"])
def test_a_flac_of_any_stated_length_has_the_clips_of_an_honest_one(wavegan, tmp_path, total, cut):
    honest = encoded(noise(40.2), RATE, format="FLAC")
    (tmp_path / "music" / "a.flac").write_bytes(honest)
    lying = bytearray(honest)
    lying[21] = lying[21] & 0xF0 | total >> 32
    lying[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    (tmp_path / "music" / "b.flac").write_bytes(lying)
    clips = load(wavegan, **{"sound.cut": cut})
    half = len(clips) // 2
    assert half == (1 if cut == "first" else 40)
    assert clips.files == ["a.flac"] * half + ["b.flac"] * half
    assert np.array_equal(clips.data[:half], clips.data[half:])
    for index in (half, len(clips) - 1):  # as scores and the page read it again
        again = read_clip(wavegan, tmp_path / "music" / "b.flac", clips.numbers[index])
        np.testing.assert_allclose(again, clips.data[index, 0], rtol=0, atol=1e-6)
    assert clips.seconds == pytest.approx([40.2] * 2 if cut == "first" else [1.0] * 80, abs=1e-3)
    assert clips.left_out == []


def test_a_recording_that_ends_early_has_the_clips_that_are_there(wavegan, tmp_path):
    whole = encoded(noise(40), RATE)
    (tmp_path / "music" / "a.wav").write_bytes(whole[: len(whole) // 4])
    clips = load(wavegan)
    assert clips.numbers == list(range(10))
    assert clips.left_out == []


def test_damage_costs_the_clips_where_it_is(wavegan, tmp_path):
    content = bytearray(encoded(noise(20), RATE, format="FLAC"))
    at = len(content) * 55 // 100
    content[at : at + 64] = bytes(64)
    (tmp_path / "music" / "a.flac").write_bytes(content)
    clips = load(wavegan)
    assert set(range(20)) - set(clips.numbers) <= {9, 10, 11, 12}
    assert len(clips) >= 17
    for name, reason in clips.left_out:
        assert name.startswith("a.flac from ")
        assert reason.startswith("cannot be read: ")


def test_clips_past_the_end_are_no_clips_and_no_faults(wavegan, tmp_path, monkeypatch):
    """A length that is a little too long, where a format allows no check of it."""
    soundfile.write(tmp_path / "music" / "a.wav", noise(40), RATE)
    monkeypatch.setattr(audio_files.Extent, "frames", 70 * RATE)
    known = decoding.plan(wavegan, dataset.find_files(wavegan.data_dir, loose=True))
    assert sum(part.count for part in known) == 70
    clips = load(wavegan)
    assert clips.numbers == list(range(40))
    assert clips.left_out == []


def test_seconds_are_those_of_the_sound(wavegan, tmp_path):
    soundfile.write(tmp_path / "music" / "a.wav", noise(2.75), RATE)
    assert load(wavegan).seconds == pytest.approx([1, 1, 0.75])
    assert load(wavegan, **{"sound.cut": "first"}).seconds == pytest.approx([2.75])


def test_what_never_ends_is_refused(wavegan, tmp_path, monkeypatch):
    """A file of a few kilobytes may hold days of silence."""
    monkeypatch.setattr(audio_files, "MAX_HOURS", 0.002)
    content = bytearray(encoded(noise(20), RATE, format="FLAC"))
    content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])
    (tmp_path / "music" / "a.flac").write_bytes(content)
    soundfile.write(tmp_path / "music" / "b.wav", noise(3), RATE)
    clips = load(wavegan)
    assert clips.files == ["b.wav"] * 3
    assert clips.left_out == [("a.flac", "longer than 0.002 hours: cut it into shorter files")]
    assert load(wavegan, **{"sound.cut": "first"}).seconds == pytest.approx([7.2, 3], abs=1e-3)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an alarm")
@pytest.mark.parametrize("where", ["extent", "read_clips"])
def test_ctrl_c_ends_the_threads(wavegan, tmp_path, monkeypatch, where):
    """Threads that would decode for minutes are told to stop."""
    soundfile.write(tmp_path / "music" / "a.wav", noise(10), RATE)
    monkeypatch.setattr(audio_files, "BLOCK", 8)
    real, ended = getattr(audio_files, where), threading.Event()

    def endless(*arguments):
        stop = arguments[-1]
        while not stop():
            time.sleep(0.01)
        ended.set()
        return real(*arguments)

    monkeypatch.setattr(audio_files, where, endless)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    start = time.perf_counter()
    try:
        with pytest.raises(KeyboardInterrupt):
            load(wavegan)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ended.wait(5)
    assert time.perf_counter() - start < 5


def test_clips_of_many_frames_are_decoded_fewer_at_a_time(wavegan, tmp_path, monkeypatch):
    wave = np.stack([tone(500, 8, 44_100), tone(500, 8, 44_100)], axis=1)
    soundfile.write(tmp_path / "music" / "a.wav", wave, 44_100)
    monkeypatch.setattr(decoding, "PART_FRAMES", 3 * 44_100)
    found = dataset.find_files(wavegan.data_dir, loose=True)
    assert [part.count for part in decoding.plan(wavegan, found)] == [3, 3, 2]
    clips = load(wavegan)
    assert clips.numbers == list(range(8))
    for clip in clips.data:
        assert strongest(clip[0], RATE) == pytest.approx(500, abs=1)
