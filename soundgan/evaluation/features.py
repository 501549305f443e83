"""What scoring sees of a sound: a log-mel on one grid for every recipe, and statistics of it.

Shapes: N sounds of L samples, M mel bands, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor, nn

from soundgan.audio import files as audio_files
from soundgan.audio import vocoders
from soundgan.dataset import Recording
from soundgan.settings import Config

GRID = {
    "sample_rate": 22050,
    "n_fft": 1024,
    "hop_length": 512,
    "n_mels": 64,
    "f_min": 20.0,
    "f_max": 8000.0,
    "power": 1.0,
}
FLOOR = 1e-4  # magnitudes are clamped to this before the logarithm


@dataclass
class SoundSet:
    """A set of sounds as the metrics see them."""

    x: Tensor  # (N, 1, M, T) log-mels
    labels: Tensor  # (N,) class that each sound is, or is meant to be
    silent: float = 0.0  # share of sounds that are silent
    clipped: float = 0.0  # share of sounds with ten samples or more at full scale

    def subset(self, rows: Sequence[int]) -> SoundSet:
        return SoundSet(self.x[rows], self.labels[rows])


def log_mels(waves: Tensor, rate: int, seconds: float) -> Tensor:
    """Waveforms `(N, L)` at `rate` Hz -> `(N, 1, M, T)`, of their first `seconds`, zero-padded.

    At least one window of the grid, 46 ms: three frames, so that there are steps between them.
    """
    mel = torchaudio.transforms.MelSpectrogram(**GRID, norm="slaney", mel_scale="slaney")
    length = max(int(seconds * GRID["sample_rate"]), GRID["n_fft"])
    mels = []
    for wave in waves:  # one by one: a batch of them leaves the processor's cache
        # Not by torchaudio, which makes a filter of 90 million numbers for a clip at 16 384 Hz.
        wave = audio_files.resampled(wave.numpy(), rate, GRID["sample_rate"], "sounds to score")
        wave = torch.from_numpy(wave)[:length]
        wave = nn.functional.pad(wave, (0, length - len(wave)))
        mels.append(mel(wave).clamp(min=FLOOR).log())
    frames = length // GRID["hop_length"] + 1
    return torch.stack(mels)[:, None] if mels else torch.zeros(0, 1, GRID["n_mels"], frames)


def statistics(x: Tensor) -> Tensor:
    """Log-mels `(N, 1, M, T)` -> mean, deviation and mean step of each band over time, `(N, 3 M)`.

    Features that depend on no trained classifier.
    """
    if len(x) == 0:  # torch warns of its deviation
        return x.new_zeros(0, 3 * x.shape[2])
    return torch.cat([x.mean(3), x.std(3), x.diff(dim=3).abs().mean(3)], dim=2)[:, 0]


def measure(cfg: Config, waves: Tensor, labels: Tensor) -> SoundSet:
    """`waves (N, L)` at the recipe's rate and `labels (N,)` -> what the metrics need of them."""
    if len(waves) == 0:  # shares of nothing
        return SoundSet(log_mels(waves, cfg.sound.sample_rate, cfg.clip_seconds), labels)
    level = waves.abs()
    silent = float((level.amax(1) < audio_files.SILENCE).float().mean())
    clipped = float(((level >= 0.999).sum(1) >= 10).float().mean())
    x = log_mels(waves, cfg.sound.sample_rate, cfg.clip_seconds)
    return SoundSet(x, labels, silent, clipped)


def measure_files(
    cfg: Config,
    recordings: list[Recording],
    through: Callable[[Tensor], Tensor] | None = None,
) -> SoundSet:
    """What the metrics need of these clips; `through`: what is done to waveforms `(B, L)` first.

    A few at a time: the waveforms of all of them would be gigabytes. Raises UserError where one has
    gone.
    """
    if not recordings:
        nothing = torch.zeros(0, cfg.sound.clip_samples)
        return measure(cfg, nothing, torch.zeros(0, dtype=torch.long))
    parts = []
    for first in range(0, len(recordings), vocoders.VOCODER_BATCH):
        some = recordings[first : first + vocoders.VOCODER_BATCH]
        waves = torch.stack([audio_files.read_clip(cfg, r.path, r.number) for r in some])
        waves = waves if through is None else through(waves)
        parts.append(measure(cfg, waves, torch.tensor([r.label for r in some])))
    silent, clipped = (
        sum(getattr(part, name) * len(part.labels) for part in parts) / len(recordings)
        for name in ("silent", "clipped")
    )
    x, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "labels"))
    return SoundSet(x, labels, silent, clipped)
