"""Generators and critics: stacks of convolutions that double or halve the map at every rung.

Shapes: B clips, K classes, C channels, M mel bands, T frames.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils.parametrizations import spectral_norm

from config import Config

SLOPE = 0.2  # of every LeakyReLU


class Generator(nn.Module):
    """Latents and labels -> spectrograms: a linear map, then transposed convolutions.

    `generator(z, labels)`: `z (B, latent_dim)`, integer `labels (B,)` -> `(B, 1, M, T)` log-mel,
    clamped to `output_range`. The label is concatenated to z as a one-hot vector (conditional GAN,
    Mirza & Osindero 2014).
    """

    def __init__(self, cfg: Config, num_classes: int) -> None:
        super().__init__()
        channels = cfg.generator_channels
        scale = 2 ** len(channels)
        self.num_classes = num_classes
        self.base = (channels[0], cfg.n_mels // scale, cfg.frames // scale)
        self.output_range = cfg.output_range
        self.project = nn.Linear(cfg.latent_dim + num_classes, torch.Size(self.base).numel())
        rungs: list[nn.Module] = []
        for c_in, c_out in pairwise(channels):
            rungs += [
                nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1),
                nn.GroupNorm(cfg.norm_groups, c_out),
                nn.LeakyReLU(SLOPE),
            ]
        rungs.append(nn.ConvTranspose2d(channels[-1], 1, kernel_size=4, stride=2, padding=1))
        self.rungs = nn.Sequential(*rungs)
        initialise(self, cfg.init_std)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        y = one_hot(labels, self.num_classes).to(z.dtype)  # (B, K)
        x = self.project(torch.cat([z, y], dim=1))  # (B, C * M/16 * T/16)
        x = self.rungs(x.unflatten(1, self.base))  # (B, 1, M, T)
        return x.clamp(*self.output_range)


class Critic(nn.Module):
    """Spectrograms and labels -> one score a clip.

    `critic(x, labels)`: `x (B, 1, M, T)`, integer `labels (B,)` -> `(B,)`. A linear map turns the
    one-hot label into a second input channel. Every convolution is spectrally normalised (Miyato et
    al. 2018); GroupNorm, unlike BatchNorm, keeps the score of a clip a function of that clip alone,
    which the gradient penalty needs.
    """

    def __init__(self, cfg: Config, num_classes: int) -> None:
        super().__init__()
        channels = cfg.critic_channels
        scale = 2 ** len(channels)
        self.num_classes = num_classes
        self.label_map_scale = cfg.label_map_scale
        self.label_map = nn.Linear(num_classes, cfg.n_mels * cfg.frames)
        rungs: list[nn.Module] = []
        for rung, (c_in, c_out) in enumerate(zip((2, *channels), channels)):
            rungs.append(nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1))
            if rung > 0:
                rungs.append(nn.GroupNorm(cfg.norm_groups, c_out))
            rungs.append(nn.LeakyReLU(SLOPE))
        rungs.append(nn.Conv2d(channels[-1], 1, (cfg.n_mels // scale, cfg.frames // scale)))
        self.rungs = nn.Sequential(*rungs)
        initialise(self, cfg.init_std)
        for layer in self.rungs:
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y = self.label_map(one_hot(labels, self.num_classes).to(x.dtype))  # (B, M * T)
        y = self.label_map_scale * y.view_as(x)  # (B, 1, M, T)
        return self.rungs(torch.cat([x, y], dim=1)).flatten()  # (B, 2, M, T) -> (B,)


def initialise(network: nn.Module, std: float) -> None:
    """Weights of convolutions and linear layers ~ N(0, std), biases 0; norms keep 1 and 0."""
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, std)
            nn.init.zeros_(layer.bias)


def build(cfg: Config, num_classes: int) -> tuple[Generator, Critic]:
    """The recipe's generator and critic for `num_classes` classes, initialised, on the CPU."""
    return Generator(cfg, num_classes), Critic(cfg, num_classes)
