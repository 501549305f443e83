"""Waveforms -> clips as the networks see them: mel spectrograms in the recipe's compressed unit.

The inverse is in two parts: `expand` gives mel bands back, and a vocoder (`vocoders.py`) makes
waveforms of them.
"""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

from soundgan.settings import Config, Spectrogram


class Transform(nn.Module):
    """Waveform `(B, clip_samples)` -> what the networks see: `(B, 1, M, T)`, or `(B, 1, L)` raw.

    Centred STFT, magnitude or power, mel bands, compression; built once. With the constants of the
    HiFi-GAN recipes (magnitude, Slaney mels and norm, natural log with a floor) this is the very
    input that SpeechBrain's 22 050 Hz HiFi-GANs were trained on.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg, self.sound = cfg, cfg.sound
        if not self.sound.raw:
            self.register_buffer("bands", filter_bank(self.sound))  # (n_fft / 2 + 1, M)
            self.register_buffer("window", torch.hann_window(self.sound.n_fft))

    def forward(self, wave: Tensor) -> Tensor:
        if self.sound.raw:
            return wave[:, None]  # (B, 1, L)
        return compress(self.mel(wave), self.cfg)[:, None]  # (B, L) -> (B, M, T) -> (B, 1, M, T)

    def mel(self, wave: Tensor) -> Tensor:
        """Mel bands `(B, M, T)` of `wave (B, L)`: torchaudio's MelSpectrogram, to rounding.

        Frame by frame, and with a plain root in place of `abs()` of complex numbers, it takes
        three fifths of the time.
        """
        edge = self.sound.n_fft // 2
        return self.mel_within(nn.functional.pad(wave, (edge, edge), mode="reflect"))

    def mel_within(self, wave: Tensor) -> Tensor:
        """The same of windows that lie whole within `wave (B, L)`, `(B, M, T)`.

        Frame 0 is centred on sample n_fft / 2, and T = (L - n_fft) // hop + 1.
        """
        frames = wave.unfold(-1, self.sound.n_fft, self.sound.hop)  # (B, T, n_fft), a view
        spectrum = torch.fft.rfft(frames * self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power.pow(self.sound.power / 2) @ self.bands).mT


def mel_bands(sound: Spectrogram) -> dict:
    """The constants of a mel filter bank, by torchaudio's names."""
    return {
        "n_mels": sound.n_mels,
        "sample_rate": sound.sample_rate,
        "f_min": sound.f_min,
        "f_max": sound.f_max,
        "norm": None if sound.mel_norm == "none" else sound.mel_norm,
        "mel_scale": sound.mel_scale,
    }


def filter_bank(sound: Spectrogram) -> Tensor:
    """Weight of each frequency of the Fourier transform in each mel band, `(n_fft / 2 + 1, M)`."""
    count = sound.n_fft // 2 + 1
    return torchaudio.functional.melscale_fbanks(n_freqs=count, **mel_bands(sound))


def compress(mel: Tensor, cfg: Config) -> Tensor:
    """Mel `(B, M, T)` -> the recipe's compressed unit, the same shape; `expand` is the inverse."""
    sound, c = cfg.sound, cfg.sound.compression_constant
    if sound.compression == "ln":
        return mel.clamp(min=c).log()
    if sound.compression == "log1p":
        return (c * mel).log1p()
    db = 20 / sound.power * mel.clamp(min=1e-10).log10()
    below = db - db.amax(dim=(-2, -1), keepdim=True)  # 0 at each clip's own maximum
    return 1 + below.clamp(min=-c) * (2 / c)


def expand(x: Tensor, cfg: Config) -> Tensor:
    """The inverse of `compress`; what decibels below a maximum have lost, the level, stays lost."""
    sound, c = cfg.sound, cfg.sound.compression_constant
    if sound.compression == "ln":
        return x.exp()
    if sound.compression == "log1p":
        return x.expm1() / c
    return 10 ** ((x - 1) * (c / 2) * sound.power / 20)
