"""The transform against SpeechBrain's and librosa's, and its inverse."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch
from speechbrain.lobes.models.HifiGAN import mel_spectrogram

import config
from soundgan import audio
from soundgan.audio.vocoders import HIFIGAN_FLOOR
from soundgan.config_io import change

ALL = list(config.RECIPES)


def test_mel_equals_speechbrains(default):
    torch.manual_seed(0)
    wave = 0.3 * torch.randn(2, default.sound.clip_samples)
    wave[1, 40_000:] = 0  # silence sits on the floor
    theirs = mel_spectrogram(
        sample_rate=22050,
        hop_length=256,
        win_length=1024,
        n_fft=1024,
        n_mels=80,
        f_min=0.0,
        f_max=8000.0,
        power=1,
        normalized=False,
        norm="slaney",
        mel_scale="slaney",
        compression=True,
        audio=wave,
    )
    ours = audio.Transform(default)(wave)
    assert ours.shape == (2, *default.shape)
    torch.testing.assert_close(ours[:, 0], theirs, rtol=0, atol=1e-6)
    assert ours.min().item() == pytest.approx(-11.513, abs=1e-3)


def test_lofi_spectrogram_is_librosas():
    cfg = config.RECIPES["lofi-wgan"]
    wave = np.random.default_rng(0).standard_normal(cfg.sound.clip_samples).astype(np.float32) * 0.1
    mel = librosa.feature.melspectrogram(
        y=wave, sr=22050, n_fft=2048, hop_length=512, n_mels=256, pad_mode="reflect"
    )
    theirs = librosa.power_to_db(mel, ref=np.max, top_db=80) / 40 + 1
    ours = audio.Transform(cfg)(torch.from_numpy(wave)[None])[0, 0].numpy()
    assert ours.shape == (256, 256)
    assert (ours.max(), ours.min()) >= (1.0, -1.0)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("name", [n for n in ALL if n != "wavegan"])
def test_expand_undoes_compress(name):
    cfg = config.RECIPES[name]
    mel = torch.rand(2, 8, 9) * 3 + 0.01
    back = audio.expand(audio.compress(mel, cfg), cfg)
    if cfg.sound.compression == "db":  # up to the level of each clip
        mel = mel / mel.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(back, mel, rtol=1e-3, atol=1e-5)
    assert audio.compress(torch.zeros(1, 2, 2), cfg).min() >= cfg.sound.quietest - 1e-6 or (
        cfg.sound.compression == "db"
    )


def test_frequency_quest_hands_its_vocoder_the_mel_it_was_trained_on():
    """ln(clamp(expm1(x) / 1000, 1e-5)) is the default recipe's own log-mel."""
    cfg = config.RECIPES["frequency-quest"]
    wave = torch.randn(1, cfg.sound.clip_samples, generator=torch.Generator().manual_seed(0)) * 0.1
    x = audio.Transform(cfg)(wave)
    handed = audio.expand(x, cfg).clamp(min=HIFIGAN_FLOOR).log()
    default = change(config.RECIPES["sn-wgan-gp"], {"sound.frames": cfg.sound.frames})
    torch.testing.assert_close(handed, audio.Transform(default)(wave), rtol=0, atol=2e-4)
