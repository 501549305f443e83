"""Long recordings in consecutive clips, and stretches of them that are left out."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

import config
from soundgan import dataset
from soundgan.config_io import change


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


def test_silent_stretches_are_left_out_by_name(tmp_path):
    (tmp_path / "music").mkdir()
    wave = np.zeros(5 * 16384)
    wave[:16384] = wave[3 * 16384 : 4 * 16384] = 0.1
    soundfile.write(tmp_path / "music" / "a.wav", wave, 16384)
    cfg = change(config.RECIPES["wavegan"], {"output_dir": str(tmp_path / "out")})
    clips = dataset.load_clips(cfg, dataset.find_files(tmp_path / "music", loose=True))
    assert len(clips) == 2
    assert [path for path, _ in clips.left_out] == [f"a.wav at {s}.0 s" for s in (1, 2, 4)]
