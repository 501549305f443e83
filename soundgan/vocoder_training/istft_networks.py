"""The discriminator that an iSTFT vocoder is trained against, and what both minimise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, leaky_relu, pad
from torch.nn.utils.parametrizations import weight_norm

from soundgan.audio import Transform, compress
from soundgan.settings import Config

WINDOWS = (512, 1024, 2048)  # samples; the hop is a quarter of each
JUDGED = (512, 2048)  # windows of the discriminator
CHANNELS = 16  # of the discriminator
FLOOR = 1e-5  # of magnitudes before their logarithm


def log_magnitudes(wave: Tensor, window: Tensor) -> Tensor:
    """Waveforms `(B, L)` -> `(B, T, F)`, of the windows that lie whole within them."""
    size = len(window)
    wave = pad(wave, (0, max(0, size - wave.shape[1])))
    spectrum = torch.fft.rfft(wave.unfold(1, size, size // 4) * window)
    return (spectrum.real.square() + spectrum.imag.square() + FLOOR**2).log() / 2


class OneResolution(nn.Module):
    """Log magnitudes of one window -> score of each place, and the features that led to it.

    Strides of four along frequency: with two it takes five times as long as the network.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        layers = [
            nn.Conv2d(1, CHANNELS, (3, 9), (1, 4), (1, 4)),
            nn.Conv2d(CHANNELS, 2 * CHANNELS, (3, 9), (1, 4), (1, 4)),
            nn.Conv2d(2 * CHANNELS, 2 * CHANNELS, 3, 1, 1),
        ]
        self.layers = nn.ModuleList(map(weight_norm, layers))
        self.last = weight_norm(nn.Conv2d(2 * CHANNELS, 1, 3, padding=1))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        h, features = log_magnitudes(wave, self.window)[:, None], []  # (B, 1, T, F)
        for layer in self.layers:
            h = leaky_relu(layer(h), 0.1)
            features.append(h)
        return self.last(h), features


class Discriminator(nn.Module):
    """Spectrograms at several resolutions, judged place by place (Jang et al. 2021, UnivNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(map(OneResolution, JUDGED))

    def forward(self, wave: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """`(B, 1, L)` -> scores and features, an entry a resolution."""
        judged = [part(wave[:, 0]) for part in self.parts]
        return [score for score, _ in judged], [features for _, features in judged]


class Losses(nn.Module):
    """Hinge loss and feature matching, as Vocos has them, and distances of spectra.

    The third is the mean absolute difference of the recipe's own clips and of log magnitudes at
    several resolutions (Yamamoto, Song & Kim 2020).
    """

    def __init__(self, options: object, cfg: Config, device: torch.device) -> None:
        super().__init__()
        self.options, self.transform = options, Transform(cfg)
        for size in WINDOWS:
            self.register_buffer(f"window{size}", torch.hann_window(size), persistent=False)
        self.to(device)

    def critic(self, on_real: list[Tensor], on_fake: list[Tensor]) -> Tensor:
        """Scores of real and generated segments -> the discriminator's loss."""
        pairs = zip(on_real, on_fake)
        return sum((1 - a).relu().mean() + (1 + b).relu().mean() for a, b in pairs)

    def generator(
        self, fake: Tensor, real: Tensor, on_fake: tuple[list, list], on_real: tuple[list, list]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Segments `(B, 1, L)`, and what the discriminators make of both: (scores, features).

        Returns the whole loss and its parts: adversarial, features, distance of spectra.
        """
        none = fake.new_zeros(())  # without a discriminator
        adversarial = sum(((1 - score).relu().mean() for score in on_fake[0]), none)
        pairs = (pair for both in zip(on_fake[1], on_real[1]) for pair in zip(*both))
        features = sum((l1_loss(*pair) for pair in pairs), none)
        distance = l1_loss(*(self._clips(wave[:, 0]) for wave in (fake, real)))
        for size in WINDOWS:
            window = getattr(self, f"window{size}")
            distance = distance + l1_loss(
                *(log_magnitudes(wave[:, 0], window) for wave in (fake, real))
            )
        o = self.options
        whole = o.adversarial_weight * adversarial + o.feature_weight * features
        return whole + o.mel_weight * distance, adversarial, features, distance

    def _clips(self, wave: Tensor) -> Tensor:
        """`(B, L)` -> `(B, M, T)` in the recipe's unit; as `Transform`, of the windows that lie
        whole within it, and with a gradient where there is silence."""
        cfg, window = self.transform.cfg, self.transform.window
        spectrum = torch.fft.rfft(wave.unfold(1, cfg.sound.n_fft, cfg.sound.hop) * window)
        power = spectrum.real.square() + spectrum.imag.square() + FLOOR**2
        return compress((power.pow(cfg.sound.power / 2) @ self.transform.bands).mT, cfg)
