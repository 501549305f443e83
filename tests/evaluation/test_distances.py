"""The formulas against closed forms, against their authors' programs, and by what they mean."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from soundgan.evaluation import distances


@pytest.fixture
def clouds() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(120, 5, generator=generator)
    return real, 0.7 * torch.randn(80, 5, generator=generator) + 0.4


def test_frechet_of_gaussians_is_the_closed_form() -> None:
    """Between N(0, 1) and N(m, s^2) in each of D directions: D (m^2 + (1 - s)^2)."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(20_000, 3, generator=generator)
    fake = 1.5 * torch.randn(20_000, 3, generator=generator) + 2
    assert distances.frechet(real, fake) == pytest.approx(3 * (4 + 0.25), rel=0.02)
    assert distances.frechet(real, real) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_the_unbiased_sum(clouds: tuple[Tensor, Tensor]) -> None:
    real, fake = (x[:7].double() for x in clouds)

    def k(a: Tensor, b: Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / (2 * 1.3**2))

    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    within = sum(k(real[i], real[j]) + k(fake[i], fake[j]) for i, j in pairs) / (7 * 6)
    across = sum(k(a, b) for a in real for b in fake) / 49
    value, boot = distances.kernel_distance(real, fake, 1.3)
    assert value == pytest.approx(100 * (within - 2 * across), rel=1e-9)
    assert len(boot) == 0


def test_kernel_distance_is_zero_on_average_for_equal_sets(clouds: tuple[Tensor, Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    values = []
    for _ in range(200):
        x = torch.randn(60, 5, generator=generator)
        values.append(distances.kernel_distance(x[:20], x[20:], 3.0)[0])
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error  # 20 and 40 clips: a biased one would show 3.6
    assert error < 0.2


def test_the_interval_of_the_kernel_distance_covers_it(clouds: tuple[Tensor, Tensor]) -> None:
    value, boot = distances.kernel_distance(*clouds, 3.0, draws=400)
    low, high = np.percentile(boot, [2.5, 97.5])
    assert low < value < high
    assert np.mean(boot) == pytest.approx(value, abs=0.5 * np.std(boot))


def test_density_and_coverage_are_those_of_their_authors(clouds: tuple[Tensor, Tensor]) -> None:
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):
        theirs = compute_prdc(*(x.numpy() for x in clouds), nearest_k=5)
    density, coverage = distances.density_coverage(*clouds, 5)
    assert density == pytest.approx(theirs["density"], abs=1e-6)
    assert coverage == pytest.approx(theirs["coverage"], abs=1e-6)


def test_inception_score_counts_certain_and_even_predictions() -> None:
    certain = 50 * torch.eye(4).repeat(5, 1)
    assert distances.inception_score(certain) == pytest.approx(4, rel=1e-6)
    assert distances.inception_score(torch.zeros(20, 4)) == pytest.approx(1, rel=1e-6)
    assert distances.inception_score(certain[:1].repeat(9, 1)) == pytest.approx(1, rel=1e-6)


def test_inception_score_is_torchmetrics(clouds: tuple[Tensor, Tensor]) -> None:
    from torchmetrics.image.inception import InceptionScore

    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.update(clouds[0])
    assert distances.inception_score(clouds[0]) == pytest.approx(float(theirs.compute()[0]), 1e-4)


def test_copies_have_a_low_rank(clouds: tuple[Tensor, Tensor]) -> None:
    real = torch.randn(300, 5, generator=torch.Generator().manual_seed(2))
    training, unseen, other = real[:100], real[100:200], real[200:]
    ratio, z = distances.copying(training, unseen, other)
    assert ratio == pytest.approx(1, abs=0.15)
    assert abs(z) < 2.5
    ratio, z = distances.copying(training, unseen, training + 0.01)
    assert ratio < 0.05
    assert z < -10
    assert distances.copying(training, unseen, other + 5)[1] > 10


def test_sliced_wasserstein_of_a_shift_is_its_mean_projection() -> None:
    """Shifted by d along one axis of D, the mean over directions is d E|theta_1|."""
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    x = (x - x.mean(0)) / x.std(0)
    shift = torch.tensor([2.0, 0, 0, 0])
    expected = 2 * math.gamma(2) / (math.sqrt(math.pi) * math.gamma(2.5))  # of a unit 4-vector
    assert distances.sliced_wasserstein(x, x + shift) == pytest.approx(expected, rel=0.05)
    assert distances.sliced_wasserstein(x, x) == 0
