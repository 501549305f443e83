"""Formulas of the metrics: how far one set of embeddings or statistics lies from another.

Each is one function that cites its paper and knows nothing of sounds. Embeddings of real sounds
`(R, D)` come first, those of the sounds to score `(N, D)` second.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from soundgan import packages

DIRECTIONS = 1024  # of the sliced Wasserstein distance
ROUNDING = 3e-3  # share of the embeddings' length below which a distance is one of equal sounds


def frechet(real: Tensor, fake: Tensor) -> float:
    """Squared Frechet distance of two Gaussians, by torchmetrics (Heusel et al. 2017, equation 6).

    Grows as the sets get smaller: compare only equal sizes.
    """
    fid = packages.needed("torchmetrics.image.fid", "The Frechet distance")  # takes seconds
    metric = fid.FrechetInceptionDistance(feature=_Identity(real.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(real.double().cpu(), real=True)
    metric.update(fake.double().cpu(), real=False)
    return float(metric.compute())


class _Identity(nn.Module):
    """What torchmetrics takes for a network where embeddings are already at hand."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_features = size

    def forward(self, x: Tensor) -> Tensor:
        return x


def vanishes(distance: float, x: Tensor) -> bool:
    """Whether a distance between embeddings `x (N, D)` is nothing but rounding: a ratio to it means
    nothing."""
    return not distance > ROUNDING * float(x.norm(dim=1).max())


def inception_score(logits: Tensor) -> float:
    """`exp E[KL(p(y|x) || p(y))]` of logits `(N, K)` (Salimans et al. 2016): from 1 to K."""
    each = softmax(logits.double(), dim=1)
    overall = each.mean(0, keepdim=True)
    return float((each * (each.log() - overall.log())).sum(1).mean().exp())


def bandwidth(real: Tensor) -> float:
    """Median distance between two real embeddings: the width of the kernel (Chung et al. 2025).

    Of two clips at least.
    """
    return float(torch.pdist(real.double()).median().clamp(min=1e-6))


def kernel_distance(
    real: Tensor, fake: Tensor, width: float, draws: int = 0, seed: int = 0
) -> tuple[float, np.ndarray]:
    """100 times the unbiased squared MMD with a Gaussian kernel, and `draws` bootstrap values.

    Gretton et al. 2012, equation 3; as a distance of sounds Chung et al. 2025 (KAD), whose factor
    and kernel these are. Its expectation is 0 for equal distributions, whatever the sample sizes;
    single values may be negative. In a bootstrap draw a clip and its copy are no pair, otherwise
    copies would count as likeness.
    """

    def kernel(a: Tensor, b: Tensor) -> np.ndarray:
        return (
            torch.exp(-torch.cdist(a.double(), b.double()).square() / (2 * width**2)).cpu().numpy()
        )

    kernels = kernel(real, real), kernel(fake, fake), kernel(real, fake)

    def mmd(r: np.ndarray, f: np.ndarray) -> np.ndarray:  # how often each clip is in: (draws, N)
        def within(k: np.ndarray, w: np.ndarray) -> np.ndarray:
            squares = w**2
            pairs = ((w @ k) * w).sum(1) - squares @ np.diag(k)
            return pairs / np.maximum(w.sum(1) ** 2 - squares.sum(1), 1e-12)

        across = ((r @ kernels[2]) * f).sum(1) / (r.sum(1) * f.sum(1))
        return 100 * (within(kernels[0], r) + within(kernels[1], f) - 2 * across)

    whole = mmd(np.ones((1, len(real))), np.ones((1, len(fake))))
    rng = np.random.default_rng(seed)
    times = [rng.multinomial(n, np.full(n, 1 / n), draws) for n in (len(real), len(fake))]
    return float(whole[0]), mmd(*(t.astype(float) for t in times)) if draws else np.empty(0)


def density_coverage(real: Tensor, fake: Tensor, k: int) -> tuple[float, float] | None:
    """How densely fakes lie among the real, and which share of the real has a fake nearby.

    Nearby is closer than a real clip's k-th real neighbour (Naeem et al. 2020, section 3), or than
    its last, where there are fewer than k; there must be one. None where most of the real clips
    have k copies of themselves, and no sound can be nearer.
    Six lines here because the authors' package prints and has not moved since 2020; a test holds
    them equal to it.
    """
    k = min(k, len(real) - 1)
    radius = torch.cdist(real, real).kthvalue(k + 1, dim=1).values[:, None]  # (R, 1)
    if vanishes(float(radius.median()), real):
        return None
    distance = torch.cdist(real, fake)  # (R, N)
    density = (distance < radius).sum(0).float().mean() / k
    return float(density), float((distance.amin(1, keepdim=True) < radius).float().mean())


def nearest(real: Tensor, fake: Tensor) -> Tensor:
    """Distance of each fake to the nearest real clip, `(N,)`."""
    return torch.cdist(fake, real).amin(1)


def copying(training: Tensor, unseen: Tensor, fake: Tensor) -> tuple[float, float] | None:
    """Are fakes nearer to the training clips than unseen real sounds are? `(ratio, z)`.

    The ratio of the median distances (under 1: nearer), and the normal score of the rank test of
    Meehan, Chaudhuri & Dasgupta 2020: under about -3, they are copies. None where the unseen sounds
    are copies of training clips themselves.
    """
    stats = packages.needed("scipy.stats", "The test for copies")
    own, others = nearest(training, fake), nearest(training, unseen)
    if vanishes(float(others.median()), training):
        return None
    ratio = float(own.median() / others.median())
    n, m = len(own), len(others)
    rank = stats.mannwhitneyu(own.numpy(), others.numpy()).statistic
    return ratio, float((rank - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12))


def spread(x: Tensor, labels: Tensor) -> dict[int, float]:
    """Mean distance between two sounds of a class, for each class that has two."""
    return {
        k: float(torch.pdist(x[labels == k]).mean())
        for k in labels.unique().tolist()
        if int((labels == k).sum()) > 1
    }


def sliced_wasserstein(real: Tensor, fake: Tensor, seed: int = 0) -> float:
    """Mean 1-Wasserstein distance over random directions, of equally many points `(N, D)` each.

    In deviations of the real set (Rabin et al. 2011, the sliced distance).
    """
    mean, std = real.mean(0), real.std(0) + 1e-3
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(real.shape[1], DIRECTIONS, generator=generator)
    directions = directions / directions.norm(dim=0)
    lines = [((x - mean) / std @ directions).sort(0).values for x in (real, fake)]
    return float((lines[0] - lines[1]).abs().mean())
