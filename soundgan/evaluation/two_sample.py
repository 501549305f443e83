"""Classifier two-sample test: can a small network tell generated sounds from recordings?

A network, the judge, is trained to tell real sounds from others and is then tried on sounds that it
has not seen (Lopez-Paz & Oquab 2017, "Revisiting Classifier Two-Sample Tests"). The figure is the
area under its ROC curve: how often it ranks one of the others above a real one. 0.5 is chance: no
difference that it could learn. 1: each is told apart. It sees what the embeddings of a classifier
leave out: texture, lines and edges.

The judge sees log-mels on the grid of all scores (`features.py`), and views of them, which say what
gives the sounds away. Shapes: N sounds, M mel bands, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, interpolate

SEEDS = (0, 1, 2)  # one judge each, with a division of the sounds of its own
CHANNELS = (16, 32, 64, 64)
STRIDES = (2, 2, 2, 2)
FRAMES = 88
DROPOUT = 0.3
STEPS = 300
BATCH = 32  # half of them real
RATE = 3e-3  # highest learning rate of the one-cycle schedule
WEIGHT_DECAY = 0.05
GAIN = 0.1  # nepers (0.9 dB), at most: so that no single clip is known by its level
TRIED = 1 / 3  # of the sounds, that a judge is tried on and not trained on
LEAST = 8  # sounds of each kind, to train and to try: below, there is no figure
POOL = 4  # bands by frames that a coarse view averages (93 ms)


class Judge(nn.Module):
    """Log-mels `(N, 1, M, T)` -> logits `(N,)` of being real.

    Averages and maxima over time alone: it knows in which band something is, not when.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)  # (M, 1)
        self.register_buffer("std", std)
        stages: list[nn.Module] = []
        for (c_in, c_out), stride in zip(pairwise((1, *CHANNELS)), STRIDES):
            conv = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
            stages += [conv, nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)]
        self.stages = nn.Sequential(*stages)
        bands = len(mean)
        for stride in STRIDES:
            bands = (bands - 1) // stride + 1
        self.drop = nn.Dropout(DROPOUT)
        self.decide = nn.Linear(3 * CHANNELS[-1] * bands, 1)
        size = texture(torch.zeros(1, 1, len(mean), 32)).shape[1]
        self.norm = nn.BatchNorm1d(size, affine=False)
        self.texture = nn.Sequential(nn.Dropout(0.5), nn.Linear(size, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        h = self.stages(x)  # (N, C, m, t)
        h = torch.cat([h.mean(3), h.amax(3), h.std(3, correction=0)], dim=1)  # (N, 3 C, m)
        return (self.decide(self.drop(h.flatten(1))) + self.texture(self.norm(texture(x))))[:, 0]


SIDE = 16


def texture(x: Tensor) -> Tensor:
    """Log power of the two-dimensional spectra of squares of a clip, averaged over time, `(N, D)`."""
    if min(x.shape[2:]) < SIDE:
        return x.mean((1, 3))
    squares = x[:, 0].unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE // 2)  # (N, b, t, S, S)
    squares = squares - squares.mean((-1, -2), keepdim=True)
    window = torch.hann_window(SIDE, device=x.device)
    power = torch.fft.rfft2(squares * window * window[:, None]).abs().square().mean(2)
    return (power + 1e-2).log().flatten(1)


def train_judge(real: Tensor, other: Tensor, seed: int) -> Judge:
    """A judge of log-mels `real (R, 1, M, T)` and `other (N, 1, M, T)`; the random state is kept."""
    cuda = [real.device] if real.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        mean, std = real.mean((0, 3))[0, :, None], real.std((0, 3))[0, :, None] + 1e-3
        judge = Judge(mean, std).to(real.device)
        optimiser = torch.optim.AdamW(judge.parameters(), weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
        half = BATCH // 2
        truth = torch.arange(BATCH, device=real.device).lt(half).float()
        for _ in range(STEPS):
            rows = [torch.randint(len(x), (half,), device=real.device) for x in (real, other)]
            batch = turned(torch.cat([real[rows[0]], other[rows[1]]]))[..., :FRAMES]
            batch = batch + GAIN * (2 * torch.rand(BATCH, 1, 1, 1, device=real.device) - 1)
            loss = binary_cross_entropy_with_logits(judge(batch), truth)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return judge.eval().requires_grad_(False)


def turned(x: Tensor) -> Tensor:
    """Log-mels `(B, 1, M, T)`, each turned along time: what leaves at one end comes in at the other."""
    turn = torch.randint(x.shape[3], (len(x), 1), device=x.device)
    at = (torch.arange(x.shape[3], device=x.device) + turn) % x.shape[3]  # (B, T)
    return x.gather(3, at[:, None, None].expand_as(x))


def area_under_curve(real: np.ndarray, other: np.ndarray) -> float:
    """How often a real sound has a higher score than another, ties counting half."""
    order = np.searchsorted(np.sort(other), real, "left") + np.searchsorted(np.sort(other), real, "right")
    return float(order.mean() / (2 * len(other)))


# ---- views --------------------------------------------------------------------------------------


def coarse(x: Tensor, pool: int = POOL) -> Tensor:
    """Averages of `pool` bands by `pool` frames, `(N, 1, M / pool, T / pool)`."""
    return avg_pool2d(x, pool)


def fine(x: Tensor, pool: int = POOL) -> Tensor:
    """What these averages leave out, of the same shape as far as they reach."""
    means = interpolate(avg_pool2d(x, pool), scale_factor=pool, mode="nearest")
    return x[..., : means.shape[2], : means.shape[3]] - means


def shuffled(x: Tensor) -> Tensor:
    """Frames in random order, another for each sound: spectra without what changes in time."""
    draw = torch.Generator().manual_seed(0)
    order = torch.rand(len(x), x.shape[3], generator=draw).argsort(1).to(x.device)
    return x.gather(3, order[:, None, None].expand_as(x))


def band(x: Tensor, part: int, parts: int) -> Tensor:
    size = x.shape[2] // parts
    return x[:, :, part * size : (part + 1) * size]


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda x: x,
    "coarse": coarse,
    "fine": fine,
    "shuffled": shuffled,
    **{f"band{k}": (lambda x, k=k: band(x, k, 4)) for k in range(4)},
}


# ---- the test -----------------------------------------------------------------------------------


class Area(NamedTuple):
    mean: float
    low: float
    high: float


def two_sample(
    real: Tensor, other: Tensor, unseen: Tensor, groups: Sequence[int] | None = None, seeds=SEEDS
) -> Area | None:
    """Judge trained on `real` and a part of `other`, tried on `unseen` and the rest of `other`."""
    groups = np.arange(len(other)) if groups is None else np.asarray(groups)
    areas = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        names = rng.permutation(np.unique(groups))
        tried = np.isin(groups, names[: max(1, round(TRIED * len(names)))])
        judge = train_judge(real, other[~tried], seed)
        with torch.no_grad():
            areas.append(area_under_curve(judge(unseen).numpy(), judge(other[tried]).numpy()))
    return Area(float(np.mean(areas)), min(areas), max(areas))
