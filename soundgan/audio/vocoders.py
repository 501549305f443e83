"""Clips -> waveforms: the vocoders.

Every vocoder is called the same way: clips `(B, 1, M, T)` in the recipe's unit (raw audio:
`(B, 1, L)`) -> waveforms `(B, T * hop)` (`(B, L)`) on the CPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from soundgan import packages
from soundgan.audio import bigvgan, griffin_lim, hifigan, istft
from soundgan.audio.transform import expand, filter_bank
from soundgan.settings import GRIFFIN_LIM, LIBROSA, NO_VOCODER, Config

GRIFFIN_LIM_ITERATIONS = 64
LIBROSA_ITERATIONS = 32
RESTORED_PEAK = 0.7  # of sounds from spectrograms that know no level (-3 dBFS)
VOCODER_BATCH = 16  # clips vocoded at a time: bounds memory when many are wanted

# Published HiFi-GANs, each pinned to one commit (55.8 MB to fetch, once).
VOCODER_REVISIONS = {
    "speechbrain/tts-hifigan-libritts-22050Hz": "4188503131602dc234f48d7f22eebea93d788736",
    "speechbrain/tts-hifigan-ljspeech": "cf42f2c3dfd36141d8961874030f81e9221d14e9",
}

# The spectrogram those vocoders were trained on; on any other grid they play noise.
HIFIGAN_GRID = {
    "sample_rate": 22050,
    "n_fft": 1024,
    "hop": 256,
    "n_mels": 80,
    "f_min": 0.0,
    "f_max": 8000.0,
    "mel_scale": "slaney",
    "mel_norm": "slaney",
    "power": 1.0,
}
HIFIGAN_FLOOR = 1e-5  # mel magnitudes are clamped to this before the logarithm it expects


class Vocoder:
    """What all vocoders share: batches of bounded size, the random state as it was, the level."""

    name = ""

    def __init__(self, cfg: Config, device: torch.device) -> None:
        self.cfg, self.sound, self.device = cfg, cfg.sound, device

    def decode(self, x: Tensor) -> Tensor:
        """`(B, M, T)` (raw audio: `(B, L)`) on the device -> `(B, T * hop)`."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Tensor:
        """Clips `(B, 1, M, T)` -> waveforms `(B, T * hop)`; raw `(B, 1, L)` -> `(B, L)`."""
        clips = clips[:, 0].float().to(self.device)
        if not self.sound.raw:
            clips = clips.clamp(self.sound.quietest, self.sound.loudest)
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(0)
            parts = [self.decode(part).cpu() for part in clips.split(VOCODER_BATCH)]
        waves = torch.cat(parts)  # (B, T * hop)
        if not self.sound.raw and self.sound.compression == "db":
            # Decibels below a clip's own maximum know no level: bring every clip up to the same.
            waves = level_restored(waves)
        return waves


def level_restored(waves: Tensor) -> Tensor:
    """Waveforms `(B, L)`, each with a peak of RESTORED_PEAK."""
    return waves * (RESTORED_PEAK / waves.abs().amax(dim=1, keepdim=True).clamp(min=1e-9))


class GriffinLim(Vocoder):
    """The vocoder that needs no weights: mel bands -> sound by fast Griffin-Lim (`griffin_lim.py`).

    Deterministic: the phases start the same for every clip and call.
    """

    name = GRIFFIN_LIM

    def __init__(self, cfg: Config, device: torch.device) -> None:
        super().__init__(cfg, device)
        sound = self.sound
        self.bank = griffin_lim.Bank(filter_bank(sound), sound.power).to(device)
        self.short_time = griffin_lim.ShortTime(sound.n_fft, sound.hop).to(device)

    def decode(self, x: Tensor) -> Tensor:
        # T centred frames span (T - 1) hops; a repeated last frame makes it T.
        x = nn.functional.pad(x, (0, 1), mode="replicate")  # (B, M, T + 1)
        mels = expand(x, self.cfg).mT.contiguous()  # (B, T + 1, M)
        phases = griffin_lim.random_phases(mels.shape[1], self.bank.top).to(self.device)
        # On a CPU clip by clip: a batch of them leaves the processor's cache.
        parts = mels.split(1 if self.device.type == "cpu" else len(mels))
        return torch.cat([self._retrieve(part, phases) for part in parts])  # (B, T * hop)

    def _retrieve(self, mels: Tensor, phases: Tensor) -> Tensor:
        start = phases * self.bank.start(mels)
        return griffin_lim.retrieve(
            self.short_time,
            griffin_lim.Mels(self.bank, mels),
            start,
            GRIFFIN_LIM_ITERATIONS,
            griffin_lim.MOMENTUM,
        )


class Librosa(Vocoder):
    """librosa's mel inversion (non-negative least squares) and Griffin-Lim, clip by clip."""

    name = LIBROSA

    def __init__(self, cfg: Config, device: torch.device) -> None:
        """Raises Missing where librosa cannot be imported."""
        super().__init__(cfg, device)
        purpose = "Playing through librosa"
        self.mel_to_stft = packages.needed("librosa.feature.inverse", purpose).mel_to_stft
        self.griffinlim = packages.needed("librosa.core.spectrum", purpose).griffinlim

    def decode(self, x: Tensor) -> Tensor:
        sound = self.sound
        waves = []
        for mel in expand(x, self.cfg).cpu().numpy():  # (M, T)
            # What mel_to_audio does, in its two parts, because only they take a seed.
            linear = self.mel_to_stft(
                np.pad(mel, ((0, 0), (0, 1)), mode="edge"),
                sr=sound.sample_rate,
                n_fft=sound.n_fft,
                power=sound.power,
                fmin=sound.f_min,
                fmax=sound.f_max,
                htk=sound.mel_scale == "htk",
                norm=None if sound.mel_norm == "none" else sound.mel_norm,
            )
            wave = self.griffinlim(
                linear, n_iter=LIBROSA_ITERATIONS, hop_length=sound.hop, random_state=0
            )
            waves.append(torch.from_numpy(wave))
        return torch.stack(waves)


class RawAudio(Vocoder):
    """No vocoder: a clip of raw audio is the sound."""

    name = NO_VOCODER

    def decode(self, x: Tensor) -> Tensor:
        return x


class HifiGan(Vocoder):
    """SpeechBrain's HiFi-GAN (Kong, Kim & Bae 2020), from its two files (`hifigan.py`)."""

    def __init__(self, cfg: Config, device: torch.device, about: Path, weights: Path) -> None:
        """Raises ValueError with what is wrong with the files, OSError."""
        super().__init__(cfg, device)
        self.name = cfg.vocoder
        self.generator = hifigan.load(about, weights, device)
        self.normalised = True  # whether its weights are still two parts each, as in training

    def decode(self, x: Tensor) -> Tensor:
        if self.normalised:
            self.generator.remove_weight_norm()
            self.normalised = False
        log_mel = expand(x, self.cfg).clamp(min=HIFIGAN_FLOOR).log()
        wave = self.generator.inference(log_mel)[:, 0]  # (B, M, T) -> (B, (T + 2 pad) * hop)
        pad = (wave.shape[1] - x.shape[2] * self.sound.hop) // 2  # the vocoder's own padding
        return wave[:, pad : pad + x.shape[2] * self.sound.hop]


class BigVgan(Vocoder):
    """BigVGAN v2 (Lee et al. 2022) from a folder of the published form, on HiFi-GAN's grid.

    Its mels differ from ours in one thing: frame t is centred on sample t * hop + hop / 2, where
    ours is centred on t * hop. So a sound of our mels comes half a hop (5.8 ms) late, and that much
    is cut from its beginning. (The 1e-9 under its root stays far below the floor of the logarithm.)
    """

    def __init__(self, cfg: Config, device: torch.device) -> None:
        super().__init__(cfg, device)
        self.name = cfg.vocoder
        self.model = bigvgan.load(Path(cfg.vocoder), HIFIGAN_GRID, device)

    def decode(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, 1), mode="replicate")  # (B, M, T + 1): what the cut takes away
        log_mel = expand(x, self.cfg).clamp(min=HIFIGAN_FLOOR).log()
        late = self.sound.hop // 2
        return self.model(log_mel)[:, 0, late : late - self.sound.hop]  # (B, T * hop)


class Istft(Vocoder):
    """A small vocoder of one's own sounds (`istft.py`), from a folder of `train_vocoder.py`."""

    def __init__(self, cfg: Config, device: torch.device) -> None:
        """Raises ValueError with what is wrong with the folder, OSError."""
        super().__init__(cfg, device)
        self.name = cfg.vocoder
        self.network = istft.load(Path(cfg.vocoder), cfg, device)

    def decode(self, x: Tensor) -> Tensor:
        return self.network.play(x)
