"""Generators and critics: one ladder of convolutions for spectrograms and for raw audio.

A rung changes the size of the map by `stride`; what else differs from recipe to recipe (kernels,
norms, activations, heads) are constants. Shapes: B clips, K classes, C channels, M mel bands, T
frames, L samples; `S` stands for (M, T) or (L,), `s` for the smallest map.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softmax
from torch.nn.utils.parametrizations import spectral_norm

import layers
import residual
from config import Config
from layers import SLOPE

CONV = {1: layers.Conv1d, 2: layers.Conv2d}  # by the number of dimensions of a map
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


class Generator(nn.Module):
    """Latents and labels -> clips: a linear map, then rungs that widen it.

    `generator(z, labels)`: `z (B, latent_dim)`, integer `labels (B,)` -> `(B, 1, *S)`. In a
    conditional recipe the label is concatenated to z as a one-hot vector (Mirza & Osindero 2014).
    """

    def __init__(self, cfg: Config, num_classes: int) -> None:
        super().__init__()
        channels, dims = cfg.generator_channels, len(cfg.shape) - 1
        self.num_classes = num_classes if cfg.conditional else 0
        self.base = (channels[0], *smallest_map(cfg, len(channels)))
        self.output, self.output_range = cfg.output, cfg.output_range
        self.standard = layers.Standard(cfg.n_mels) if cfg.standardise else None
        features = torch.Size(self.base).numel()

        def activation() -> nn.Module:
            return nn.ReLU() if cfg.generator_activation == "relu" else layers.LeakyReLU(SLOPE)

        project: list[nn.Module] = [
            nn.Linear(cfg.latent_dim + self.num_classes, features, bias=cfg.generator_bias)
        ]
        if cfg.project_activation:
            project += normalisation(cfg.generator_norm, features, 1, cfg.norm_groups)
            project.append(activation())
        self.project = nn.Sequential(*project)
        rungs: list[nn.Module] = []
        for number, (c_in, c_out) in enumerate(pairwise((*channels, 1)), start=1):
            rungs += upward(cfg, c_in, c_out, dims)
            last = number == len(channels)
            if not last or cfg.norm_output:
                rungs += normalisation(cfg.generator_norm, c_out, dims, cfg.norm_groups)
            if not last:
                rungs.append(activation())
            if number == cfg.attention:
                rungs.append(SelfAttention(c_out, dims))
        self.rungs = nn.Sequential(*rungs)
        initialise(self, cfg.init_std)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.unfold(self.fold(z, labels))

    def fold(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents -> the smallest maps `(B, C, *s)`; joined along the last axis, a longer sound."""
        if self.num_classes:
            z = torch.cat([z, one_hot(labels, self.num_classes).to(z.dtype)], dim=1)
        return self.project(z).unflatten(1, self.base)

    def unfold(self, x: Tensor) -> Tensor:
        """The smallest maps `(B, C, *s)`, of any length -> clips `(B, 1, *S)`."""
        x = self.rungs(x)
        if self.standard:
            x = self.standard.back(x)
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
        channels, dims = cfg.critic_channels, len(cfg.shape) - 1
        self.num_classes = num_classes if cfg.conditional else 0
        self.label_map_scale = cfg.label_map_scale
        self.standard = layers.Standard(cfg.n_mels) if cfg.standardise else None
        if self.num_classes:
            self.label_map = nn.Linear(self.num_classes, torch.Size(cfg.shape).numel())
        rungs: list[nn.Module] = []
        first = 2 if self.num_classes else 1
        attention = len(cfg.generator_channels) - cfg.attention  # the rung with a map of that size
        for number, (c_in, c_out) in enumerate(pairwise((first, *channels)), start=1):
            padding = (cfg.critic_kernel - cfg.stride + 1) // 2  # each map exactly / stride
            rungs.append(CONV[dims](c_in, c_out, cfg.critic_kernel, cfg.stride, padding))
            if number > 1:
                rungs += normalisation(cfg.critic_norm, c_out, dims, cfg.norm_groups)
            rungs.append(layers.LeakyReLU(SLOPE))
            if cfg.critic_dropout and cfg.critic_dropout[number - 1]:
                rungs.append(nn.Dropout(cfg.critic_dropout[number - 1]))
            if cfg.phase_shuffle and number < len(channels):
                rungs.append(PhaseShuffle(cfg.phase_shuffle))
            if cfg.attention and number == attention:
                rungs.append(SelfAttention(c_out, dims))
        if cfg.critic_head == "full":
            rungs.append(CONV[dims](channels[-1], 1, smallest_map(cfg, len(channels))))
        else:  # overlapping patches of the map are judged one by one (Isola et al. 2017)
            rungs.append(CONV[dims](channels[-1], 1, cfg.critic_kernel, 1, 1))
        self.rungs = nn.Sequential(*rungs)
        self.head = cfg.critic_head
        initialise(self, cfg.init_std)
        if cfg.spectral_norm:  # Miyato et al. 2018
            for layer in list(self.rungs.modules()):
                if isinstance(layer, LAYERS):
                    spectral_norm(layer)

    def judge(self, x: Tensor, labels: Tensor) -> residual.Opinion:
        """Scores, and no opinion on anything else."""
        return residual.Opinion(self(x, labels))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        if self.standard:
            x = self.standard(x)
        if self.num_classes:
            y = self.label_map(one_hot(labels, self.num_classes).to(x.dtype))  # (B, K) -> (B, S)
            x = torch.cat([x, self.label_map_scale * y.view_as(x)], dim=1)  # (B, 2, *S)
        scores = self.rungs(x)
        return scores.flatten() if self.head == "full" else scores.flatten(1)


# ---- rungs --------------------------------------------------------------------------------------


def smallest_map(cfg: Config, rungs: int) -> tuple[int, ...]:
    """Size of the map at the narrow end of a ladder: (M, T) or (L,) over stride ** rungs."""
    return tuple(size // cfg.stride**rungs for size in cfg.shape[1:])


def upward(cfg: Config, c_in: int, c_out: int, dims: int) -> list[nn.Module]:
    """Layers that make a map exactly `stride` times as large."""
    kernel, stride, bias = cfg.generator_kernel, cfg.stride, cfg.generator_bias
    if cfg.upsampling == "nearest":
        return [
            nn.Upsample(scale_factor=stride, mode="nearest"),
            CONV[dims](c_in, c_out, kernel, 1, kernel // 2, bias=bias),
        ]
    padding = (kernel - stride + 1) // 2
    extra = stride - kernel + 2 * padding
    return [CONV_TRANSPOSE[dims](c_in, c_out, kernel, stride, padding, extra, bias=bias)]


def normalisation(kind: str, channels: int, dims: int, groups: int) -> list[nn.Module]:
    if kind == "none":
        return []
    return [BATCH_NORM[dims](channels) if kind == "batch" else layers.GroupNorm(groups, channels)]


class PhaseShuffle(nn.Module):
    """Shift each clip's feature map `(B, C, L)` by up to n samples, reflecting at the ends.

    Keeps the critic from telling fakes by the phase of upsampling artefacts (Donahue, McAuley &
    Puckette 2019, "Adversarial Audio Synthesis", section 3.3).
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        length = x.shape[2]
        shift = torch.randint(-self.n, self.n + 1, (len(x), 1), device=x.device)  # (B, 1)
        at = (torch.arange(length, device=x.device) + shift).abs()  # (B, L)
        at = (length - 1) - ((length - 1) - at).abs()
        return x.gather(2, at[:, None].expand_as(x))


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


def build(cfg: Config, num_classes: int) -> tuple[nn.Module, nn.Module]:
    """The recipe's generator and critic for `num_classes` classes, initialised, on the CPU."""
    if cfg.blocks == "residual":
        return residual.Generator(cfg, num_classes), residual.Critic(cfg, num_classes)
    return Generator(cfg, num_classes), Critic(cfg, num_classes)


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, with its kernels in the order that is quick there.

    On a CPU that is channels last (of two-dimensional ones): above all gradients come sooner.
    """
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
    return network.to(device, memory_format=layout)
