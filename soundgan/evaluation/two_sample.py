"""Classifier two-sample test: can a classifier tell generated sounds from recordings?

A judge is trained to tell real sounds from others and is then tried on sounds that it has not seen
(Lopez-Paz & Oquab 2017, "Revisiting Classifier Two-Sample Tests"). The figure is the area under its
ROC curve: how often it ranks a real sound above one of the others. 0.5 is chance: no difference
that it could learn. 1: each is told apart. It sees what the embeddings of a classifier of sounds
leave out: texture, lines and edges.

A judge is linear, in features that say how a spectrogram is made and little of what it shows:
spectra of small squares, as those that give away generated pictures (Durall et al. 2020, Frank et
al. 2020), and of each band over time; what comes again every few frames; steps from band to band.
A few hundred sounds teach it in milliseconds, by regularised least squares (Rifkin, Yeo & Poggio
2003), which has no random state. A small convolutional network takes 11 CPU seconds, and at these
numbers it finds neither a grid (0.51 where this finds 1.00) nor the vocoder (0.43; 0.78).

Shapes: N sounds, M mel bands, T frames, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from soundgan.evaluation.sides import Division, Sides, divide

SEEDS = (0, 1, 2)  # one area each, of so many
DIVISIONS = 4  # of the sounds, with a judge each
SQUARES = (16, 8)  # bands and frames of the squares whose spectra are taken
BANDS = 8  # next to each other whose spectra over time are averaged
PERIOD = 16  # frames: what comes again after 2, 4, 8 or 16 of them is seen
AROUND = 9  # frames whose mean is taken away before that
POWER = 1e-2  # added to powers before the logarithm: of rounding, and of silence
DEVIATION = 1e-3  # added to deviations, of features that are constant
RIDGE = 0.01  # regularisation of the least squares, where the kernel of a feature vector is about 1
AT_A_TIME = 16  # sounds whose features are computed at once


# ---- what a judge sees --------------------------------------------------------------------------


def squares(x: Tensor, side: int) -> Tensor:
    """Log power of the 2-D spectra of squares of log-mels `x (N, M, T)`, mean over time `(N, D)`.

    Squares of `side` bands by `side` frames, at most the clip's; each half over the one before it.
    """
    side = min(side, *x.shape[1:])
    parts = x.unfold(1, side, side).unfold(2, side, max(1, side // 2))  # (N, m, t, side, side)
    window = torch.hann_window(side + 1, dtype=x.dtype)[1:]  # no zero in it, however small
    parts = (parts - parts.mean((-1, -2), keepdim=True)) * window * window[:, None]
    return (torch.fft.rfft2(parts).abs().square() + POWER).log().mean(2).flatten(1)


def rhythm(x: Tensor) -> Tensor:
    """Log power of the spectrum of each band over time, means over BANDS of them, `(N, D)`."""
    window = torch.hann_window(x.shape[2] + 1, dtype=x.dtype)[1:]
    power = torch.fft.rfft((x - x.mean(2, keepdim=True)) * window).abs().square()
    return (avg_pool2d(power, (min(BANDS, x.shape[1]), 1)) + POWER).log().flatten(1)


def recurrence(x: Tensor) -> Tensor:
    """Each band's level, over that around, in frame k, k + PERIOD, k + 2 PERIOD ..., `(N, D)`."""
    around = avg_pool2d(x, (1, AROUND), 1, (0, AROUND // 2), count_include_pad=False)
    period = min(PERIOD, x.shape[2])
    whole = x.shape[2] // period * period
    return (x - around)[..., :whole].unflatten(2, (-1, period)).mean(2).flatten(1)


def colour(x: Tensor) -> Tensor:
    """Third differences of the mean spectrum: what a real one has little of, `(N, D)`."""
    return x.mean(2).diff(n=min(3, x.shape[1] - 1))


def levels(x: Tensor) -> Tensor:
    """Mean and deviation of each band; mean steps over time and from band to band, `(N, D)`."""
    steps = [x.diff(dim=2).abs().mean(2), x.diff(dim=1).abs().mean(2)]
    return torch.cat([x.mean(2), x.std(2, correction=0).log1p(), *steps], dim=1)


KINDS = (
    *(partial(squares, side=side) for side in SQUARES),
    *(rhythm, recurrence, colour, levels),
)


@dataclass
class Textures:
    """What judges see of sounds."""

    x: Tensor  # (N, D) features, float64
    weights: Tensor  # (D,) that make all kinds of features count alike

    @classmethod
    def of(cls, mels: Tensor) -> Textures:
        """Of log-mels `(N, 1, M, T)`, where M and T are 2 at least."""
        parts = mels[:, 0].double().split(AT_A_TIME)
        kinds = [torch.cat([kind(part) for part in parts]) for kind in KINDS]
        sizes = [torch.full((kind.shape[1],), 1.0 * kind.shape[1]) for kind in kinds]
        weights = (len(KINDS) * torch.cat(sizes).double()).rsqrt()
        return cls(torch.cat(kinds, dim=1), weights)


# ---- the judge ----------------------------------------------------------------------------------


@dataclass
class Judge:
    """A linear classifier of features."""

    mean: Tensor  # (D,)
    normal: Tensor  # (D,)

    def __call__(self, x: Tensor) -> np.ndarray:
        """Scores `(N,)` of features `x (N, D)`: about 1 for real sounds, -1 for others."""
        return ((x - self.mean) @ self.normal).numpy()


def train_judge(real: Tensor, other: Tensor, weights: Tensor) -> Judge:
    """A judge of features `real (R, D)` and `other (N, D)`, both sides of which count alike."""
    x = torch.cat([real, other])
    count = [len(real), len(other)]
    side = x.new_tensor([1.0, -1.0]).repeat_interleave(torch.tensor(count))  # (R + N,)
    share = x.new_tensor([len(x) / (2 * n) for n in count]).repeat_interleave(torch.tensor(count))
    mean = (real.mean(0) + other.mean(0)) / 2
    scale = weights / (x.std(0, correction=0) + DEVIATION)
    seen = (x - mean) * scale
    kernel = seen @ seen.T  # (R + N, R + N)
    dual = torch.linalg.solve(kernel + RIDGE * torch.diag(1 / share), side)
    return Judge(mean, seen.T @ dual * scale)


def area_under_curve(real: np.ndarray, other: np.ndarray) -> float:
    """How often a real sound has a higher score than another, ties counting half."""
    other = np.sort(other)
    below = np.searchsorted(other, real, "left") + np.searchsorted(other, real, "right")
    return float(below.mean() / (2 * len(other)))


# ---- the test -----------------------------------------------------------------------------------


class Area(NamedTuple):
    """Area under the ROC curve: mean over SEEDS, lowest and highest."""

    mean: float
    low: float
    high: float


def two_sample(sides: Sides, other: Tensor | None = None, paired: bool = False) -> Area | None:
    """How well judges tell `other (N, 1, M, T)` from real sounds; None where there are too few.

    Without `other`: how well they tell real sounds of other sources. `paired`: whether `other` are
    the same clips as `sides.x`, row by row, after something was done to them: then they are parted
    by source, too.
    """
    divisions = [[divide(sides, (seed, k)) for k in range(DIVISIONS)] for seed in SEEDS]
    if not all(division.is_enough for several in divisions for division in several):
        return None
    real = Textures.of(sides.x)
    others = real if other is None else Textures.of(other)
    unseen = Textures.of(sides.unseen).x if len(sides.unseen) else None

    def area(division: Division, draw: np.random.Generator) -> float:
        learnt, tried = division.other, division.other_tried
        if other is not None and not paired:
            order = draw.permutation(len(other))
            learnt, tried = order[: len(learnt)], order[len(learnt) :][: len(tried)]
        judge = train_judge(real.x[division.real], others.x[learnt], real.weights)
        known = real.x[division.real_tried] if unseen is None else unseen
        return area_under_curve(judge(known), judge(others.x[tried]))

    draw = np.random.default_rng(0)
    areas = [float(np.mean([area(d, draw) for d in several])) for several in divisions]
    return Area(float(np.mean(areas)), min(areas), max(areas))
