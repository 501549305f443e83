"""Residual generator with a style code, and projection critic: the networks of `best`.

Where `convolutional.py` has one convolution a stage, here a stage is a residual block with two, and
the class comes in as a style (generator) and as a projection (critic). Both networks work on
squares of P by P values of a spectrogram at once, the patches of the largest map: at full size a
convolution costs the most and sees the least. Shapes as there: B clips, K classes, C channels, M
mel bands, T frames, W the length of the style code; `t` is the width of the smallest map.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, embedding, interpolate, leaky_relu, pixel_shuffle

from soundgan import settings
from soundgan.models import denoiser, layers, noise
from soundgan.models.layers import SLOPE
from soundgan.parts import Need, within
from soundgan.settings import MOST_CHANNELS, Config

Draw = Callable[[Tensor], Tensor]  # noise for the places of a map

HALF = math.sqrt(0.5)  # keeps the variance where two paths are added


# ---- constants ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ResidualGenerator(settings.Generator):
    """Residual blocks whose norms follow a style code (StyleGAN)."""

    channels: tuple[int, ...]
    """Channels of the feature maps, from the smallest up."""
    norm_groups: int = 8
    """Groups of every GroupNorm."""
    patch: int
    """Side of the square of the spectrogram that is one place of the largest map."""
    style_dim: int
    """Length of the style code that scales and shifts the norms."""
    output_range: tuple[float, float]
    """Range that the output is clamped to."""
    denoiser_channels: tuple[int, ...] = ()
    """Channels of the two maps of a denoiser, which learns fine structure from the real clips and
    gives it to generated ones (SDEdit); (): none."""
    denoiser_noise: float = 1.0
    """Deviation (nepers) of the noise that hides what a denoiser makes anew; more: coarser."""
    denoiser_steps: int = 12
    """Steps in which it removes the noise; more: finer, slower."""

    def build(self, cfg: Config, num_classes: int) -> nn.Module:
        return Generator(cfg, num_classes)

    def size(self, cfg: Config, num_classes: int = 0) -> int:
        base = self.channels[0] * math.prod(smallest_map(cfg, self.patch, len(self.channels)))
        mapping = self.style_dim * (2 * cfg.latent_dim + self.style_dim)
        mapping += num_classes * cfg.latent_dim
        blocks = sum((17 * a + 9 * b) * b for a, b in pairwise(self.channels))
        styles = 4 * self.style_dim * sum(self.channels)
        own = 0
        if self.denoiser_channels:
            own = denoiser.size(cfg.sound.n_mels, num_classes, self.denoiser_channels)
        return 2 * cfg.latent_dim * base + mapping + blocks + styles + own

    def check(self, cfg: Config, need: Need) -> None:
        _check_blocks(self, cfg, need)
        self._check_denoiser(cfg, need)
        super().check(cfg, need)
        within(self, need, 1, MOST_CHANNELS, ["norm_groups", "style_dim"])
        grouped = all(c % self.norm_groups == 0 for c in self.channels)
        need(grouped, "channels", f"must be multiples of norm_groups ({self.norm_groups})")
        ends = self.output_range or ()
        rising = len(ends) == 2 and ends[0] < ends[1]
        need(rising, "output_range", "must be two rising numbers")

    def _check_denoiser(self, cfg: Config, need: Need) -> None:
        within(self, need, 2 * denoiser.FINEST, 100, ["denoiser_noise"])
        within(self, need, 1, 1000, ["denoiser_steps"])
        if not self.denoiser_channels:
            return
        two = len(self.denoiser_channels) == 2 and all(
            0 < c <= MOST_CHANNELS and c % denoiser.GROUPS == 0 for c in self.denoiser_channels
        )
        said = f"must be two multiples of {denoiser.GROUPS} up to {MOST_CHANNELS}, or none"
        need(two, "denoiser_channels", said)
        natural = cfg.sound.compression == "ln"
        said = "are for natural logarithms (sound.compression ln): none otherwise"
        need(natural, "denoiser_channels", said)


@dataclass(frozen=True, kw_only=True)
class ProjectionCritic(settings.Critic):
    """Residual blocks, and labels projected onto the features (Miyato & Koyama 2018)."""

    auxiliary: ClassVar[bool] = True

    channels: tuple[int, ...]
    """Channels of the feature maps, from the largest down."""
    patch: int
    """Side of the square of the spectrogram that is one place of the largest map."""
    features: int
    """Length of the feature vector, onto which labels are projected."""

    def build(self, cfg: Config, num_classes: int) -> nn.Module:
        return Critic(cfg, num_classes)

    def size(self, cfg: Config, num_classes: int = 0) -> int:
        bands = smallest_map(cfg, self.patch, len(self.channels))[0]
        blocks = sum((9 * a + 17 * b) * a for a, b in pairwise(self.channels))
        last = self.channels[-1] * (9 * self.channels[-1] + 2 * bands * self.features)
        return blocks + last + num_classes * self.features

    def check(self, cfg: Config, need: Need) -> None:
        _check_blocks(self, cfg, need)
        super().check(cfg, need)
        within(self, need, 1, MOST_CHANNELS, ["features"])


def _check_blocks(part: ResidualGenerator | ProjectionCritic, cfg: Config, need: Need) -> None:
    need(not cfg.sound.raw, "channels", "residual blocks are for spectrograms (sound)")
    channels, sound = part.channels, cfg.sound
    need(part.patch >= 2 and part.patch % 2 == 0, "patch", "must be even")
    within(part, need, 2, 256, ["patch"])
    check_channels(channels, need)
    scale = part.patch * 2 ** (len(channels) - 1)
    fits = sound.n_mels % scale == 0 and sound.frames % scale == 0
    said = f"n_mels ({sound.n_mels}) and frames ({sound.frames}) to be multiples of {scale}"
    need(fits, "channels", f"{len(channels)} maps on patches of {part.patch} need {said}")


def check_channels(channels: Sequence[int], need: Need) -> None:
    """That every map has channels, and not so many that a layer cannot be built."""
    positive = len(channels) >= 2 and min(channels) >= 1
    need(positive, "channels", "needs two positive numbers or more")
    need(max(channels) <= MOST_CHANNELS, "channels", f"must be at most {MOST_CHANNELS} each")


def smallest_map(cfg: Config, patch: int, maps: int) -> tuple[int, int]:
    """Its height and width, where the largest of so many maps has one place a patch."""
    shrunk = patch * 2 ** (maps - 1)
    return cfg.sound.n_mels // shrunk, cfg.sound.frames // shrunk


# ---- generator ----------------------------------------------------------------------------------


class Styled(nn.Module):
    """GroupNorm whose scale and shift follow the style (Karras et al. 2019, StyleGAN, equation 1).

    `x (B, C, m, t * f)`, `style (B, W, 1, t)`: each column of the smallest map has a style of its
    own, so that sounds of several latents can be joined along time.
    """

    def __init__(self, channels: int, style_dim: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, affine=False)
        self.affine = nn.Conv2d(style_dim, 2 * channels, 1)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        affine = self.affine(style)
        affine = affine.repeat_interleave(x.shape[3] // affine.shape[3], dim=3)
        scale, shift = affine.chunk(2, dim=1)  # (B, C, 1, t * f) each
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class Up(nn.Module):
    """A block of the generator: a map twice as large each way.

    The residual path is interpolated; four values of a kernel of four by four make each new one.
    """

    def __init__(self, c_in: int, c_out: int, own: ResidualGenerator) -> None:
        super().__init__()
        self.first = Styled(c_in, own.style_dim, own.norm_groups)
        self.second = Styled(c_out, own.style_dim, own.norm_groups)
        self.wide = nn.ConvTranspose2d(c_in, c_out, 4, 2, 1)
        self.fine = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.past = nn.Conv2d(c_in, c_out, 1, bias=False)
        # What is random in a texture need not come from z (Karras et al. 2019, section 3.2).
        self.noise = nn.Parameter(torch.zeros(c_out, 1, 1))

    def forward(self, x: Tensor, style: Tensor, draw: Draw) -> Tensor:
        h = self.wide(leaky_relu(self.first(x, style), SLOPE))
        h = torch.addcmul(h, self.noise, draw(h[:, :1]))
        h = self.fine(leaky_relu(self.second(h, style), SLOPE))
        past = interpolate(self.past(x), scale_factor=2, mode="bilinear")
        return (h + past) * HALF


class Generator(nn.Module):
    """Latents and labels -> clips, as `convolutional.Generator`.

    `generator(z, labels)`: `z (B, latent_dim)`, integer `labels (B,)` -> `(B, 1, M, T)`. A mapping
    network makes the style of z and an embedding of the label; a linear map of both is where the
    blocks begin. The channels of the largest map become its patches (Shi et al. 2016).
    """

    def __init__(self, cfg: Config, num_classes: int) -> None:
        super().__init__()
        own, channels = cfg.generator, cfg.generator.channels
        self.width = width = own.style_dim
        self.patch = own.patch
        self.base = (channels[0], *smallest_map(cfg, own.patch, len(channels)))
        self.output_range = own.output_range
        self.embedding = nn.Embedding(num_classes if cfg.conditional else 1, cfg.latent_dim)
        self.mapping = nn.Sequential(
            nn.Linear(2 * cfg.latent_dim, width),
            nn.LeakyReLU(SLOPE),
            nn.Linear(width, width),
            nn.LeakyReLU(SLOPE),
        )
        self.start = nn.Linear(2 * cfg.latent_dim, torch.Size(self.base).numel())
        self.blocks = nn.ModuleList(Up(a, b, own) for a, b in pairwise(channels))
        self.last = Styled(channels[-1], width, own.norm_groups)
        self.to_patches = nn.Conv2d(channels[-1], self.patch**2, 3, padding=1)
        self.standardise = layers.Standardise(cfg.sound.n_mels)
        self.field = noise.Field()
        self.denoiser, self.steps = None, own.denoiser_steps
        if own.denoiser_channels:
            self.denoiser = denoiser.Denoiser(
                cfg.sound.n_mels,
                self.embedding.num_embeddings,
                own.denoiser_channels,
                own.denoiser_noise,
            )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.unfold(self.fold(z, labels))

    def denoising_loss(self, real: Tensor, labels: Tensor) -> Tensor | float:
        """What the denoiser, if there is one, learns from real clips `(B, 1, M, T)`: a scalar."""
        if self.denoiser is None:
            return 0.0
        return self.denoiser.loss(real, self._known(labels))

    def _known(self, labels: Tensor) -> Tensor:
        """Labels as the embeddings have them: where there are no classes, all are one."""
        return torch.zeros_like(labels) if self.embedding.num_embeddings == 1 else labels

    def fold(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents -> the smallest maps, and in further channels their style `(B, C + W, m, t)`.

        In evaluation three more say where the noise begins, and the label: `(B, C + W + 3, m, t)`.
        """
        labels = self._known(labels)
        both = torch.cat([z, self.embedding(labels)], dim=1)
        x = self.start(both).unflatten(1, self.base)  # (B, C, m, t)
        beside = [self.mapping(both)]
        if not self.training:
            beside += [noise.keys(z), labels[:, None].to(z.dtype)]
        return torch.cat([x, *(b[..., None, None].expand(-1, -1, *x.shape[2:]) for b in beside)], 1)

    def unfold(self, x: Tensor) -> Tensor:
        """Smallest maps and styles, of any length -> clips `(B, 1, M, T)`.

        In evaluation the noise of each place is that of the first latent's part of the field, and
        a denoiser makes the fine structure.
        """
        channels, width = self.base[0], self.width
        x, style, rest = x.tensor_split((channels, channels + width), dim=1)
        style, keys, layer = style[:, :, :1], rest[:, :2, 0, 0], itertools.count()

        def draw(like: Tensor) -> Tensor:
            """Noise `(B, 1, m, t)` of a map of this size."""
            if self.training:
                return torch.randn_like(like)
            return self.field(keys, next(layer), *like.shape[2:]).to(like.dtype)

        for block in self.blocks:
            x = block(x, style, draw)
        x = self.to_patches(leaky_relu(self.last(x, style), SLOPE))
        x = self.standardise.inverse(pixel_shuffle(x, self.patch)).clamp(*self.output_range)
        if self.denoiser is None or self.training:
            return x
        labels = rest[:, 2, 0, 0].long()
        x = self.denoiser.refine(x, labels, draw(x), self.steps)
        return x.clamp(*self.output_range)


# ---- critic -------------------------------------------------------------------------------------
# No norms: their statistics hide levels, and the zero-centred penalty keeps it in bounds. The
# layers are those whose gradients can be differentiated cheaply.


class Down(nn.Module):
    """A block of the critic: a map half as large each way."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.before, self.between = layers.LeakyReLU(SLOPE), layers.LeakyReLU(SLOPE)
        self.fine = layers.Conv2d(c_in, c_in, 3, padding=1)
        self.wide = layers.Conv2d(c_in, c_out, 4, 2, 1)
        self.past = layers.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.wide(self.between(self.fine(self.before(x))))
        return (h + self.past(avg_pool2d(x, 2))) * HALF


class CriticOutput(NamedTuple):
    """Scores of clips, and what else a critic predicts of them."""

    scores: Tensor  # (B,), higher for what looks real
    class_logits: Tensor | None = None  # (B, K); None where no loss asks for them
    latents: Tensor | None = None  # (B, latent_dim), what generated clips may have been made of


class Critic(nn.Module):
    """Clips and labels -> scores `(B,)`: `critic(x, labels)`, and `outputs` for all of it.

    The score is a linear map of the features plus their projection onto the label's embedding
    (Miyato & Koyama 2018, equation 3). The features keep the mel axis and forget where in time:
    of each band they know how much there is on average and at most.
    """

    def __init__(self, cfg: Config, num_classes: int) -> None:
        super().__init__()
        own, channels = cfg.critic, cfg.critic.channels
        width, patch = own.features, own.patch
        bands = smallest_map(cfg, patch, len(channels))[0]
        self.classes = num_classes if cfg.conditional else 0
        self.standardise = layers.Standardise(cfg.sound.n_mels)
        self.blocks = nn.Sequential(
            layers.Conv2d(1, channels[0], 2 * patch, patch, patch // 2),
            *(Down(a, b) for a, b in pairwise(channels)),
            layers.LeakyReLU(SLOPE),
            layers.Conv2d(channels[-1], channels[-1], 3, padding=1),
            layers.LeakyReLU(SLOPE),
        )
        self.features = nn.Linear(2 * channels[-1] * bands, width)
        self.activation = layers.LeakyReLU(SLOPE)
        self.score = nn.Linear(width, 1, bias=False)
        self.reconstruct = nn.Linear(width, cfg.latent_dim) if cfg.objective.latent_weight else None
        if self.classes:
            self.embedding = nn.Parameter(torch.randn(self.classes, width) / math.sqrt(width))
        self.classify = nn.Linear(width, self.classes) if cfg.objective.class_weight else None

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.outputs(x, labels).scores

    def outputs(self, x: Tensor, labels: Tensor) -> CriticOutput:
        maps = self.blocks(self.standardise(x))  # (B, C, m, t)
        maps = torch.cat([maps.mean(3), maps.amax(3)], dim=1)  # (B, 2 C, m)
        h = self.activation(self.features(maps.flatten(1)))  # (B, width)
        scores = self.score(h).flatten()
        if self.classes:
            scores = scores + (h * embedding(labels, self.embedding)).sum(1) / math.sqrt(h.shape[1])
        classes = self.classify(h) if self.classify else None
        latents = self.reconstruct(h) if self.reconstruct else None
        return CriticOutput(scores, classes, latents)
