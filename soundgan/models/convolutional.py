"""Convolutional generator and critic, for spectrograms and for raw audio.

A stage changes the size of the map by `stride`; what else differs from recipe to recipe (kernels,
norms, activations, heads) are constants, which stand first. Shapes: B clips, K classes, C channels,
M mel bands, T frames, L samples; `S` stands for (M, T) or (L,), `s` for the smallest map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from soundgan import settings
from soundgan.models import layers
from soundgan.models.layers import SLOPE
from soundgan.models.resampling import shift_reflected
from soundgan.models.residual import CriticOutput, check_channels
from soundgan.models.spectral_norm import spectral_norm
from soundgan.parts import Need, not_negative, within
from soundgan.settings import MOST_CHANNELS, Config

CONV = {1: layers.Conv1d, 2: layers.Conv2d}  # by the number of dimensions of a map
CONV_TRANSPOSE = {1: layers.ConvTranspose1d, 2: layers.ConvTranspose2d}
ENLARGE = {1: layers.Enlarge1d, 2: layers.Enlarge2d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
MOST_PLACES = 2**15  # that attention compares each with each: 4 GiB a clip
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


# ---- constants ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ConvolutionalGenerator(settings.Generator):
    """A linear map, then stages of one convolution each."""

    channels: tuple[int, ...]
    """Channels of the feature maps, from the smallest up."""
    kernel: int
    """Kernel of the convolutions."""
    stride: int = 2
    """How much every stage enlarges its map."""
    upsampling: Literal["transposed", "nearest"] = "transposed"
    """A stage's way up: transposed convolution, or repetition and then convolution."""
    norm: Literal["none", "batch", "group"]
    """Normalisation after every stage but the last."""
    norm_groups: int = 8
    """Groups of every GroupNorm."""
    activation: Literal["relu", "leaky_relu"]
    """Activation after every stage but the last."""
    bias: bool = True
    """Whether the layers have biases."""
    project_activation: bool = False
    """Whether normalisation and activation follow the first, linear layer too."""
    norm_output: bool = False
    """Whether normalisation stands before the output's activation too."""
    output: Literal["clamp", "relu", "tanh"]
    """The last activation."""
    output_range: tuple[float, float] | None = None
    """Range of the output for clamp."""
    attention: int = 0
    """Stage after which self-attention follows (SAGAN); 0: none."""
    init_std: float = 0.0
    """Standard deviation of the initial weights (biases 0); 0: PyTorch's own initialisation."""

    def build(self, cfg: Config, num_classes: int) -> nn.Module:
        return Generator(cfg, num_classes)

    def size(self, cfg: Config, num_classes: int = 0) -> int:
        base = self.channels[0] * math.prod(smallest_map(cfg, self.stride, len(self.channels)))
        project = (cfg.latent_dim + num_classes) * base
        return project + _stage_weights(self, (*self.channels, 1), cfg)

    def check(self, cfg: Config, need: Need) -> None:
        _check_stages(self, cfg, need)
        super().check(cfg, need)
        groups = self.norm_groups if self.norm == "group" else 1
        need(groups == 1 or not self.norm_output, "norm_output", "has one channel: norm_groups 1")
        base = self.channels[0] * math.prod(smallest_map(cfg, self.stride, len(self.channels)))
        grouped = not self.project_activation or base % groups == 0
        need(grouped, "project_activation", f"{base} features are no multiple of norm_groups")
        least = 1 if self.upsampling == "nearest" else self.stride
        need(self.kernel >= least, "kernel", f"must be at least {least}")
        odd = self.upsampling != "nearest" or self.kernel % 2 == 1
        need(odd, "kernel", "must be odd with nearest upsampling")
        ends = self.output_range or ()
        good = len(ends) == 2 and ends[0] < ends[1]
        clamped = self.output == "clamp"
        need(good or not clamped, "output_range", "must be two rising numbers with output clamp")
        last = len(self.channels) - 1
        fits = 0 <= self.attention <= last
        need(fits, "attention", f"must be 0 (none) or a stage from 1 to {last}")
        enough = cfg.batch_size > 1 or not (self.batch_norm and self.project_activation)
        need(enough, "batch_size", "must be at least 2: BatchNorm has no statistics of one clip")
        _check_places(self, cfg, need, last + 1 - self.attention)


@dataclass(frozen=True, kw_only=True)
class ConvolutionalCritic(settings.Critic):
    """Stages of one convolution each; the label is a second input channel."""

    channels: tuple[int, ...]
    """Channels of the feature maps, from the largest down."""
    kernel: int
    """Kernel of the convolutions."""
    stride: int = 2
    """How much every stage shrinks its map."""
    norm: Literal["none", "batch", "group"] = "none"
    """Normalisation after every stage but the first."""
    norm_groups: int = 8
    """Groups of every GroupNorm."""
    spectral_norm: bool = False
    """Whether every convolution is spectrally normalised."""
    dropout: tuple[float, ...] = ()
    """Dropout after each stage; empty: none."""
    phase_shuffle: int = 0
    """Places by which raw audio's feature maps are shifted at random between the stages."""
    head: Literal["full", "patch"] = "full"
    """full: one score a clip, from the whole last map; patch: a map of scores (PatchGAN)."""
    label_map_scale: float = 1.0
    """Factor on the label map."""
    attention: int = 0
    """Stage after which self-attention follows (SAGAN); 0: none."""
    init_std: float = 0.0
    """Standard deviation of the initial weights (biases 0); 0: PyTorch's own initialisation."""

    def build(self, cfg: Config, num_classes: int) -> nn.Module:
        return Critic(cfg, num_classes)

    def size(self, cfg: Config, num_classes: int = 0) -> int:
        places = math.prod(smallest_map(cfg, self.stride, len(self.channels)))
        ends = num_classes * math.prod(cfg.shape) + self.channels[-1] * places
        return ends + _stage_weights(self, (2, *self.channels), cfg)

    def check(self, cfg: Config, need: Need) -> None:
        _check_stages(self, cfg, need)
        super().check(cfg, need)
        need(self.kernel >= self.stride, "kernel", f"must be at least {self.stride}")
        last = min(smallest_map(cfg, self.stride, len(self.channels)))
        fits = self.head == "full" or self.kernel <= last + 2
        need(fits, "kernel", f"must be at most {last + 2} (the last map and its edge) for patches")
        need(all(0 <= rate < 1 for rate in self.dropout), "dropout", "must lie in [0, 1)")
        stages = len(self.channels)
        fits = len(self.dropout) in (0, stages)
        need(fits, "dropout", f"needs one rate a stage ({stages})")
        need(self.phase_shuffle >= 0, "phase_shuffle", "must be 0 or more")
        wave = cfg.sound.raw or self.phase_shuffle == 0
        need(wave, "phase_shuffle", "is for raw audio only: 0 otherwise")
        length = cfg.shape[-1] // self.stride ** (stages - 1)  # of the last map that is shifted
        need(self.phase_shuffle < length, "phase_shuffle", f"must be less than a map ({length})")
        fits = 0 <= self.attention <= stages
        need(fits, "attention", f"must be 0 (none) or a stage from 1 to {stages}")
        _check_places(self, cfg, need, self.attention)


def _check_stages(part: ConvolutionalGenerator | ConvolutionalCritic, cfg: Config, need: Need):
    within(part, need, 2, 1024, ["stride"])
    within(part, need, 1, 1024, ["kernel"])
    within(part, need, 1, MOST_CHANNELS, ["norm_groups"])
    not_negative(part, need, ["init_std"])
    check_channels(part.channels, need)
    channels = part.channels
    sound, scale = cfg.sound, part.stride ** len(channels)
    axes = ("samples",) if sound.raw else ("n_mels", "frames")
    sizes = dict(zip(axes, sound.shape[1:]))
    said = " and ".join(f"{name} ({size})" for name, size in sizes.items())
    fits = all(size % scale == 0 for size in sizes.values())
    need(fits, "channels", f"{len(channels)} stages need {said} to be multiples of {scale}")
    grouped = part.norm != "group" or all(c % part.norm_groups == 0 for c in channels[1:])
    need(
        grouped,
        "channels",
        f"after the first, must be multiples of norm_groups ({part.norm_groups})",
    )


def _stage_weights(part: settings.Network, channels: tuple[int, ...], cfg: Config) -> int:
    values = part.kernel ** (len(cfg.shape) - 1)
    return values * sum(c_in * c_out for c_in, c_out in pairwise(channels))


def _check_places(part: settings.Network, cfg: Config, need: Need, shrunk: int) -> None:
    """That attention can hold every pair of places of its map, `shrunk` stages below the clip."""
    places = math.prod(size // part.stride**shrunk for size in cfg.shape[1:])
    fits = part.attention == 0 or places <= MOST_PLACES
    need(fits, "attention", f"its map has {places} places, and {MOST_PLACES} at most can be paired")


# ---- networks -----------------------------------------------------------------------------------


class Generator(nn.Module):
    """Latents and labels -> clips: a linear map, then stages that widen it.

    `generator(z, labels)`: `z (B, latent_dim)`, integer `labels (B,)` -> `(B, 1, *S)`. In a
    conditional recipe the label is concatenated to z as a one-hot vector (Mirza & Osindero 2014).
    """

    def __init__(self, cfg: Config, num_classes: int) -> None:
        super().__init__()
        own, dims = cfg.generator, len(cfg.shape) - 1
        channels = own.channels
        self.num_classes = num_classes if cfg.conditional else 0
        self.one_hot = layers.OneHot(self.num_classes)
        self.base = (channels[0], *smallest_map(cfg, own.stride, len(channels)))
        self.output, self.output_range = own.output, own.output_range
        self.standardise = layers.Standardise(cfg.sound.n_mels) if cfg.sound.standardise else None
        features = torch.Size(self.base).numel()

        def activation() -> nn.Module:
            return nn.ReLU() if own.activation == "relu" else layers.LeakyReLU(SLOPE)

        project: list[nn.Module] = [
            nn.Linear(cfg.latent_dim + self.num_classes, features, bias=own.bias)
        ]
        if own.project_activation:
            project += normalisation(own.norm, features, 1, own.norm_groups)
            project.append(activation())
        self.project = nn.Sequential(*project)
        stages: list[nn.Module] = []
        for number, (c_in, c_out) in enumerate(pairwise((*channels, 1)), start=1):
            stages += upward(own, c_in, c_out, dims)
            last = number == len(channels)
            if not last or own.norm_output:
                stages += normalisation(own.norm, c_out, dims, own.norm_groups)
            if not last:
                stages.append(activation())
            if number == own.attention:
                stages.append(SelfAttention(c_out, dims))
        self.stages = nn.Sequential(*stages)
        initialise(self, own.init_std)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.unfold(self.fold(z, labels))

    def denoising_loss(self, real: Tensor, labels: Tensor) -> float:
        """There is no denoiser here (`residual.py`)."""
        return 0.0

    def fold(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents -> the smallest maps `(B, C, *s)`; joined along the last axis, a longer sound."""
        if self.num_classes:
            z = torch.cat([z, self.one_hot(labels).to(z.dtype)], dim=1)
        return self.project(z).unflatten(1, self.base)

    def unfold(self, x: Tensor) -> Tensor:
        """The smallest maps `(B, C, *s)`, of any length -> clips `(B, 1, *S)`."""
        x = self.stages(x)
        if self.standardise:
            x = self.standardise.inverse(x)
        if self.output == "clamp":
            return x.clamp(*self.output_range)
        return x.relu() if self.output == "relu" else x.tanh()


class Critic(nn.Module):
    """Clips and labels -> scores (a GAN's discriminator: logits).

    `critic(x, labels)`: `x (B, 1, *S)`, integer `labels (B,)` -> `(B,)`, or `(B, P)` from a patch
    head. In a conditional recipe a linear map turns the one-hot label into a second input channel.
    """

    def __init__(self, cfg: Config, num_classes: int) -> None:
        super().__init__()
        own, dims = cfg.critic, len(cfg.shape) - 1
        channels = own.channels
        self.num_classes = num_classes if cfg.conditional else 0
        self.label_map_scale = own.label_map_scale
        self.standardise = layers.Standardise(cfg.sound.n_mels) if cfg.sound.standardise else None
        self.one_hot = layers.OneHot(self.num_classes)
        if self.num_classes:
            self.label_map = nn.Linear(self.num_classes, torch.Size(cfg.shape).numel())
        stages: list[nn.Module] = []
        first = 2 if self.num_classes else 1
        for number, (c_in, c_out) in enumerate(pairwise((first, *channels)), start=1):
            padding = (own.kernel - own.stride + 1) // 2  # each map exactly / stride
            stages.append(CONV[dims](c_in, c_out, own.kernel, own.stride, padding))
            if number > 1:
                stages += normalisation(own.norm, c_out, dims, own.norm_groups)
            stages.append(layers.LeakyReLU(SLOPE))
            if own.dropout and own.dropout[number - 1]:
                stages.append(nn.Dropout(own.dropout[number - 1]))
            if own.phase_shuffle and number < len(channels):
                stages.append(PhaseShuffle(own.phase_shuffle))
            if number == own.attention:
                stages.append(SelfAttention(c_out, dims))
        if own.head == "full":
            stages.append(CONV[dims](channels[-1], 1, smallest_map(cfg, own.stride, len(channels))))
        else:  # overlapping patches of the map are scored one by one (Isola et al. 2017)
            stages.append(CONV[dims](channels[-1], 1, own.kernel, 1, 1))
        self.stages = nn.Sequential(*stages)
        self.head = own.head
        initialise(self, own.init_std)
        if own.spectral_norm:  # Miyato et al. 2018
            for layer in list(self.stages.modules()):
                if isinstance(layer, LAYERS):
                    spectral_norm(layer)

    def outputs(self, x: Tensor, labels: Tensor) -> CriticOutput:
        """Scores, and nothing else."""
        return CriticOutput(self(x, labels))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        if self.standardise:
            x = self.standardise(x)
        if self.num_classes:
            y = self.label_map(self.one_hot(labels).to(x.dtype))  # (B, K) -> (B, S)
            x = (x, self.label_map_scale * y.view_as(x))  # two channels, (B, 1, *S) each
        scores = self.stages(x)
        return scores.flatten() if self.head == "full" else scores.flatten(1)


# ---- layers --------------------------------------------------------------------------------------


def smallest_map(cfg: Config, stride: int, stages: int) -> tuple[int, ...]:
    """Size of the smallest map of so many stages: (M, T) or (L,) over stride ** stages."""
    return tuple(size // stride**stages for size in cfg.shape[1:])


def upward(own: ConvolutionalGenerator, c_in: int, c_out: int, dims: int) -> list[nn.Module]:
    """Layers that make a map exactly `stride` times as large."""
    kernel, stride, bias = own.kernel, own.stride, own.bias
    if own.upsampling == "nearest":
        # Two layers, as in the state dicts of always.
        return [nn.Identity(), ENLARGE[dims](stride, c_in, c_out, kernel, bias)]
    padding = (kernel - stride + 1) // 2
    extra = stride - kernel + 2 * padding
    return [CONV_TRANSPOSE[dims](c_in, c_out, kernel, stride, padding, extra, bias=bias)]


def normalisation(kind: str, channels: int, dims: int, groups: int) -> list[nn.Module]:
    if kind == "none":
        return []
    return [BATCH_NORM[dims](channels) if kind == "batch" else layers.GroupNorm(groups, channels)]


class PhaseShuffle(nn.Module):
    """Shift each clip's feature map `(B, C, L)` by up to n samples, reflecting at the ends.

    Keeps the critic from recognising generated clips by the phase of upsampling artefacts (Donahue,
    McAuley & Puckette 2019, "Adversarial Audio Synthesis", section 3.3).
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shift = torch.randint(-self.n, self.n + 1, (len(x), 1), device=x.device)
        return shift_reflected(x, shift, self.n)


class SelfAttention(nn.Module):
    """Every place of a map `(B, C, *s)` looks at every other (Zhang et al. 2018, SAGAN, eq. 3).

    Starts as the identity: its weight gamma is 0.
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query = CONV[dims](channels, inner, 1)
        self.key = CONV[dims](channels, inner, 1)
        self.value = CONV[dims](channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (f(x).flatten(2) for f in (self.query, self.key, self.value))
        weights = softmax(query.transpose(1, 2) @ key, dim=-1)  # (B, N, N), N places
        return x + self.gamma * (value @ weights.transpose(1, 2)).view_as(x)


def initialise(network: nn.Module, std: float) -> None:
    """Weights of convolutions and linear layers ~ N(0, std), biases 0; norms keep 1 and 0."""
    if std == 0:
        return
    for layer in network.modules():
        if isinstance(layer, LAYERS):
            nn.init.normal_(layer.weight, 0.0, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
