"""Pictures: one scale, true axes, names that any font can draw."""

from __future__ import annotations

import errno
import os

import librosa
import matplotlib.image
import numpy as np
import pytest
import torch

import config
from soundgan import audio
from soundgan.report import plots


def test_one_colour_scale_for_both_panels(default, tmp_path):
    """A panel looks the same whatever stands beside it, and equal values look equal."""
    quiet, loud = np.full((80, 352), -8.0), np.full((80, 352), -2.0)
    half = quiet.copy()
    half[:, 176:] = -2.0
    plots.draw_set([tmp_path / "a.png"], [{"x": half, "y": loud}], default)
    picture = matplotlib.image.imread(tmp_path / "a.png")
    height, width = picture.shape[:2]
    row = picture[height // 2]
    # Panels start 0.75 inches from the left and are 0.08 of a panel apart.
    panel = (width - 175) / 2.08
    at = [75 + panel * p for p in (0.25, 0.75, 1.08 + 0.25, 1.08 + 0.75)]
    first, second, third, fourth = (row[int(x)] for x in at)
    assert np.array_equal(second, third)
    assert np.array_equal(third, fourth)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("raw", [False, True])
def test_a_set_is_its_pictures_one_by_one(default, tmp_path, raw):
    """Nothing of one picture (its scale, its title, its clips) is left in the next."""
    cfg = config.RECIPES["wavegan"] if raw else default
    rng = np.random.default_rng(0)
    shape = (cfg.sound.wav_samples,) if raw else (80, 352)
    first, second = (
        {"x" * n: rng.random(shape) * n / 9 - 8 * (not raw), "y": rng.random(shape) - 9 * (not raw)}
        for n in (1, 7)
    )
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    plots.draw_set(paths, [first, second, first], cfg)
    plots._sheet.cache_clear()
    plots.draw_set([tmp_path / "alone.png"], [second], cfg)
    assert paths[0].read_bytes() == paths[2].read_bytes()
    assert paths[1].read_bytes() == (tmp_path / "alone.png").read_bytes()
    assert paths[1].read_bytes() != paths[0].read_bytes()


def test_long_names_stay_above_their_panel():
    assert plots._shortened("a" * 60) == "a" * 60
    assert plots._shortened("") == ""
    for text in ("a" * 255 + ": real", "狗" * 80 + ": real", "狗" * 31):
        short = plots._shortened(text)
        assert " ... " in short
        assert short[-6:] == text[-6:]
        wide = sum(2 if c == "狗" else 1 for c in short)
        assert wide <= 60


@pytest.mark.parametrize("hz", [250, 1000, 4000])
def test_a_tone_lies_at_its_tick(default, hz):
    wave = torch.sin(2 * torch.pi * hz * torch.arange(default.sound.clip_samples) / 22050)[None]
    band = audio.Transform(default)(wave)[0, 0, :, 100].argmax().item()
    assert abs(plots.band_of(hz, default.sound) - (band + 0.5)) < 1


@pytest.mark.parametrize("recipe", sorted(config.RECIPES))
def test_the_axis_is_the_mel_scale(recipe):
    """Within a fiftieth of a band: between two centres the filters are straight in Hz."""
    mel = plots._drawn(config.RECIPES[recipe].sound)
    hz = np.arange(int(mel.f_min), int(mel.f_max) + 1, 97)
    htk = mel.mel_scale == "htk"
    low, high, *at = librosa.hz_to_mel([mel.f_min, mel.f_max, *hz], htk=htk)
    bands = (np.array(at) - low) / (high - low) * (mel.n_mels + 1) - 0.5
    heights = [plots.band_of(int(one), mel) for one in hz]
    assert np.abs(heights - bands.clip(0, mel.n_mels)).max() < 0.02


def test_raw_audio_is_drawn_as_librosa_would():
    mel = plots._drawn(config.RECIPES["wavegan"].sound)
    wave = 0.1 * np.random.default_rng(0).standard_normal(16_384).astype(np.float32)
    picture = librosa.feature.melspectrogram(
        y=wave,
        sr=mel.sample_rate,
        n_fft=mel.n_fft,
        hop_length=mel.hop,
        power=mel.power,
        n_mels=mel.n_mels,
        fmax=mel.f_max,
    )
    np.testing.assert_allclose(plots._stft(wave, mel), np.log(picture), atol=1e-4)


def test_ends_of_the_axis(default):
    assert plots.band_of(0, default.sound) == 0
    assert plots.band_of(8000, default.sound) == 80


def test_names(monkeypatch):
    assert plots.legible("dog_bark 2") == "dog_bark 2"
    assert plots.legible("café") == "café"
    families, covered = plots._fonts()
    without = frozenset(c for c in covered if c < 0x3000)
    monkeypatch.setattr(plots, "_fonts", lambda: (families, without))
    assert plots.legible("狗a") == "<72D7>a"
    assert plots.legible("a\nb\udcff") == "a<A>b<DCFF>"


def test_curves(tmp_path):
    rows = [{"epoch": i, "step": i, "seconds": 1.0, "loss": i, "l1": 2.0} for i in range(3)]
    plots.draw_curves(tmp_path / "losses.png", rows)
    assert matplotlib.image.imread(tmp_path / "losses.png").shape[0] == 240


@pytest.mark.parametrize(
    "write",
    [
        lambda path, cfg: plots.draw_set([path], [{"x": np.zeros((80, 352))}], cfg),
        lambda path, _: plots.draw_curves(path, [{"epoch": 1, "loss": 0.5}]),
        lambda path, _: audio.write_wav(path, torch.zeros(8), 8000),
    ],
)
def test_a_full_disk_names_the_file_and_leaves_the_old_one(default, tmp_path, monkeypatch, write):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write(path, default)
    assert caught.value.filename == str(path)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"x.png": b"old"}
