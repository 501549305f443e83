"""Waveforms -> clips as the networks see them: mel spectrograms in a recipe's compressed unit.

`compress` has its inverse beside it; a vocoder (`vocoders.py`) makes sound of what it gives back.
"""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

from soundgan.settings import Config


class Transform(nn.Module):
    """Waveform `(B, clip_samples)` -> what the networks see: `(B, 1, M, T)`, or `(B, 1, L)` raw.

    Centred STFT, magnitude or power, mel bands, compression; built once. With the constants of the
    HiFi-GAN recipes (magnitude, Slaney mels and norm, natural log with a floor) this is the very
    input that SpeechBrain's 22 050 Hz HiFi-GANs were trained on.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        if not cfg.sound.raw:
            bands = torchaudio.functional.melscale_fbanks(
                n_freqs=cfg.sound.n_fft // 2 + 1,
                f_min=cfg.sound.f_min,
                f_max=cfg.sound.f_max,
                n_mels=cfg.sound.n_mels,
                sample_rate=cfg.sound.sample_rate,
                norm=None if cfg.sound.mel_norm == "none" else cfg.sound.mel_norm,
                mel_scale=cfg.sound.mel_scale,
            )
            self.register_buffer("bands", bands)  # (n_fft / 2 + 1, M)
            self.register_buffer("window", torch.hann_window(cfg.sound.n_fft))

    def forward(self, wave: Tensor) -> Tensor:
        if self.cfg.sound.raw:
            return wave[:, None]  # (B, 1, L)
        return compress(self.mel(wave), self.cfg)[:, None]  # (B, L) -> (B, M, T) -> (B, 1, M, T)

    def mel(self, wave: Tensor) -> Tensor:
        """Mel bands `(B, M, T)` of `wave (B, L)`: torchaudio's MelSpectrogram, to rounding.

        Frame by frame, and with a plain root in place of `abs()` of complex numbers, it takes
        three fifths of the time.
        """
        edge = self.cfg.sound.n_fft // 2
        return self.mel_within(nn.functional.pad(wave, (edge, edge), mode="reflect"))

    def mel_within(self, wave: Tensor) -> Tensor:
        """The same of windows that lie whole within `wave (B, L)`, `(B, M, T)`.

        Frame 0 is centred on sample n_fft / 2, and T = (L - n_fft) // hop + 1.
        """
        frames = wave.unfold(-1, self.cfg.sound.n_fft, self.cfg.sound.hop)  # (B, T, n_fft), a view
        spectrum = torch.fft.rfft(frames * self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power.pow(self.cfg.sound.power / 2) @ self.bands).mT


def compress(mel: Tensor, cfg: Config) -> Tensor:
    """Mel `(B, M, T)` -> the recipe's compressed unit, the same shape; `expand` is the inverse."""
    c = cfg.sound.compression_constant
    if cfg.sound.compression == "ln":
        return mel.clamp(min=c).log()
    if cfg.sound.compression == "log1p":
        return (c * mel).log1p()
    db = 20 / cfg.sound.power * mel.clamp(min=1e-10).log10()
    below = db - db.amax(dim=(-2, -1), keepdim=True)  # 0 at each clip's own maximum
    return 1 + below.clamp(min=-c) * (2 / c)


def expand(x: Tensor, cfg: Config) -> Tensor:
    """The inverse of `compress`; what decibels below a maximum have lost, the level, stays lost."""
    c = cfg.sound.compression_constant
    if cfg.sound.compression == "ln":
        return x.exp()
    if cfg.sound.compression == "log1p":
        return x.expm1() / c
    return 10 ** ((x - 1) * (c / 2) * cfg.sound.power / 20)
