"""Denoiser: the small diffusion model that gives a generator's clips their fine structure.

A generator of few channels gets right what happens when, how loud and in which bands, and blurs
what lies within some 80 ms by 4 bands: grain, lines, edges. A denoiser learns exactly that, and
learns it quickly, because every place of every clip is an example. It is trained on real clips:
they get normal noise of a deviation sigma up to SIGMA, and it predicts the noise. A generated clip
then gets noise of SIGMA, in which its own fine structure drowns, and the noise is removed again
step by step (Meng et al. 2022, SDEdit, algorithm 1). What the noise leaves visible stays as the
generator made it; the rest becomes what real clips have in such places.

Shapes: B clips, K classes, M mel bands, T frames, C channels. Clips and sigma are in nepers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, mse_loss, pixel_shuffle, pixel_unshuffle, silu

from soundgan.models import layers

FINEST = 0.03  # nepers: the least noise, which is removed in one step
WINDOW = 88  # frames of a clip that a training step looks at
FREQUENCIES = 16  # of the embedding of sigma
EMBEDDING = 128  # numbers that sigma and the label become
GROUPS = 8
SQUARE = 5  # bands by frames, whose mean is taken away in the second input
# Predicted noise is a conditional mean, and so a little too small where steps are few: sounds come
# out too smooth. Less of it is removed at each step (Ning et al. 2024, "Elucidating the Exposure
# Bias in Diffusion Models", epsilon scaling).
SCALE = 0.97


def size(bands: int, classes: int, channels: Sequence[int]) -> int:
    """About how many weights a denoiser has: all but biases and norms."""
    wide, deep = channels
    blocks = sum(2 * c * (18 * c + 2 * EMBEDDING) for c in channels)
    embedding = EMBEDDING * (2 * FREQUENCIES + EMBEDDING + classes)
    return blocks + 8 * wide * deep + (108 + bands // 2) * wide + embedding


class Block(nn.Module):
    """Two convolutions beside the identity; the embedding `(B, E)` scales and shifts between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.affine = nn.Linear(EMBEDDING, 2 * channels)
        for layer in (self.second, self.affine):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.affine(embedding)[..., None, None].chunk(2, dim=1)
        h = self.first(silu(self.norm(x)))
        return x + self.second(silu(torch.addcmul(shift, h, 1 + scale)))


class Denoiser(nn.Module):
    """Noisy clips `(B, 1, M, T)`, sigma `(B,)` and labels `(B,)` -> the noise, in units of sigma.

    A U-net of two scales on squares of 2 by 2 values; M and T must be multiples of 4. `channels`:
    of the larger map and of the smaller one.
    """

    def __init__(self, bands: int, classes: int, channels: tuple[int, int], sigma: float) -> None:
        super().__init__()
        wide, deep = channels
        self.sigma = sigma
        self.standardise = layers.Standardise(bands)
        self.register_buffer("frequencies", 2 * torch.randn(FREQUENCIES))
        self.label = nn.Embedding(classes, EMBEDDING)
        self.embed = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING)
        )
        self.stem = nn.Conv2d(8, wide, 3, padding=1)
        self.band = nn.Parameter(torch.zeros(wide, bands // 2, 1))  # where along the bands
        self.before, self.after = Block(wide), Block(wide)
        self.down = nn.Conv2d(wide, deep, 2, 2)
        self.middle = nn.ModuleList([Block(deep), Block(deep)])
        self.up = nn.Conv2d(deep, 4 * wide, 1)
        self.out = nn.Conv2d(wide, 4, 3, padding=1)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        angles = sigma.log()[:, None] * self.frequencies
        embedding = self.embed(torch.cat([angles.sin(), angles.cos()], dim=1))
        embedding = silu(embedding + self.label(labels))  # (B, E)
        means = avg_pool2d(x, SQUARE, 1, SQUARE // 2, count_include_pad=False)
        both = torch.cat([self.standardise(x), x - means], dim=1)  # (B, 2, M, T)
        h = self.stem(pixel_unshuffle(both, 2)) + self.band  # (B, C, M / 2, T / 2)
        h = self.before(h, embedding)
        deep = self.down(h)  # (B, C', M / 4, T / 4)
        for block in self.middle:
            deep = block(deep, embedding)
        h = self.after(h + pixel_shuffle(self.up(deep), 2), embedding)
        return pixel_shuffle(self.out(silu(h)), 2)

    def loss(self, real: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of the noise in windows of real clips `(B, 1, M, T)`, a scalar.

        Each clip has its own window, and a sigma whose logarithm is uniform (Ho, Jain & Abbeel
        2020, equation 14; sigma as in Karras et al. 2022).
        """
        count, (_, bands, frames) = len(real), real.shape[1:]
        width = min(WINDOW, frames)
        start = torch.randint(frames - width + 1, (count, 1), device=real.device)
        at = start + torch.arange(width, device=real.device)  # (B, W)
        x = real.gather(3, at[:, None, None].expand(-1, 1, bands, -1))
        place = torch.rand(count, device=real.device)
        sigma = (math.log(FINEST) + place * math.log(self.sigma / FINEST)).exp()
        noise = torch.randn_like(x)
        noisy = torch.addcmul(x, sigma[:, None, None, None], noise)
        return mse_loss(self(noisy, sigma, labels).float(), noise)

    def refine(self, x: Tensor, labels: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Clips `(B, 1, M, T)` with other fine structure, decided by normal `noise` of their shape.

        `steps` Euler steps along the probability flow (Karras et al. 2022, algorithm 1 without its
        second order), sigma falling by equal ratios to FINEST, then to 0.
        """
        ratio = (FINEST / self.sigma) ** (1 / max(1, steps - 1))
        sigmas = [self.sigma * ratio**k for k in range(steps)]
        x = x + self.sigma * noise
        for now, then in zip(sigmas, [*sigmas[1:], 0.0]):
            predicted = self(x, x.new_full((len(x),), now), labels)
            x = x + SCALE * (then - now) * predicted
        return x
