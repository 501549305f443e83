"""What HiFi-GAN's generator and discriminators minimise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from soundgan.audio import Transform
from soundgan.config_io import change
from soundgan.settings import Config
from soundgan.vocoder_training.networks import speechbrain
from soundgan.vocoder_training.settings import Options


class Losses:
    """SpeechBrain's losses of HiFi-GAN, weighted as in the paper (Kong, Kim & Bae 2020, equations 1
    to 8).

    SpeechBrain takes the mean over the features of all layers where the paper sums them up; here
    the mean counts as often as there are layers. Its L1SpecLoss builds a filter bank at every call:
    `Transform` gives the same numbers with one.
    """

    def __init__(self, options: Options, spectrograms: Config, device: torch.device) -> None:
        hifigan = speechbrain()
        self.options = options
        self.discriminator_loss = hifigan.MSEDLoss()
        self.generator_loss = hifigan.MSEGLoss()
        self.feature_matching = hifigan.MelganFeatureLoss()
        wide = change(spectrograms, {"sound.f_max": options.loss_f_max})
        self.transform = Transform(wide).to(device)

    def critic(self, on_real: list[Tensor], on_fake: list[Tensor]) -> Tensor:
        """Scores of real and generated segments -> the discriminators' loss (equation 8)."""
        losses = (self.discriminator_loss(fake, real)[0] for real, fake in zip(on_real, on_fake))
        return sum(losses)

    def generator(
        self, fake: Tensor, real: Tensor, on_fake: tuple[list, list], on_real: tuple[list, list]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Segments `(B, 1, L)`, and what the discriminators make of both: (scores, features).

        Returns the whole loss (equation 7) and its parts: adversarial, features, mel.
        """
        adversarial = sum(self.generator_loss(score) for score in on_fake[0])
        layers = sum(map(len, on_fake[1]))
        features = self.feature_matching(on_fake[1], on_real[1]) * layers
        mel = nn.functional.l1_loss(self.transform(fake[:, 0]), self.transform(real[:, 0]))
        o = self.options
        whole = adversarial + o.feature_weight * features + o.mel_weight * mel
        return whole, adversarial, features, mel
