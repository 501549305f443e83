"""Losses and penalties against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import config
from soundgan.models.residual import CriticOutput
from soundgan.training.objectives import (
    difference_penalty,
    gradient_penalty,
    zero_centred_penalty,
)

LABELS = torch.tensor([0, 1, 2, 0])


class Linear(nn.Module):
    """A critic whose score is <a, x>: its gradient is a everywhere."""

    def __init__(self, a: torch.Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (x * self.a).sum(dim=(1, 2, 3))


# ---- losses --------------------------------------------------------------------------------------


def test_cross_entropy_is_pytorchs():
    objective = config.RECIPES["cgan"].objective
    real, fake = torch.randn(2, 4, 7)
    bce = nn.functional.binary_cross_entropy_with_logits
    expected = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    torch.testing.assert_close(objective.critic_loss(real, fake), expected)
    torch.testing.assert_close(
        objective.generator_loss(fake, None), bce(fake, torch.ones_like(fake))
    )


def test_wasserstein_losses():
    objective = config.RECIPES["wavegan"].objective
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, -2.0])
    assert objective.critic_loss(real, fake) == -3
    assert objective.generator_loss(fake, None) == 1


def test_relativistic_losses_are_of_pairs():
    objective = config.RECIPES["best"].objective
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.0])
    expected = (np.log(2) + np.log1p(np.exp(-3))) / 2
    assert objective.critic_loss(real, fake).item() == pytest.approx(expected, rel=1e-6)
    expected = (np.log(2) + np.log1p(np.exp(3))) / 2
    assert objective.generator_loss(fake, real).item() == pytest.approx(expected, rel=1e-6)


def test_auxiliary_losses_are_of_the_right_clips():
    """Of real and generated clips, B each: classes of the first, latents of the last."""
    usual = config.RECIPES["best"].objective
    objective = replace(usual, class_weight=2.0, latent_weight=3.0)
    z = torch.randn(4, 8)
    logits, latents = torch.zeros(8, 3), torch.zeros(8, 8)
    logits[range(4), LABELS] = 1.0
    latents[4:] = z + 0.5
    output = CriticOutput(torch.zeros(8), logits, latents)
    loss = objective.auxiliary_loss(output, LABELS, z)
    assert loss.item() == pytest.approx(2 * np.log1p(2 * np.exp(-1)) + 3 * 0.25, rel=1e-5)
    alone = CriticOutput(torch.zeros(4), logits[:4], latents[4:])  # the generator's own clips
    assert objective.auxiliary_loss(alone, LABELS, z).item() == pytest.approx(loss.item())
    without = replace(usual, class_weight=0.0, latent_weight=0.0)
    assert without.auxiliary_loss(alone, LABELS, z) == 0


# ---- penalties -----------------------------------------------------------------------------------


def test_penalty_of_a_linear_critic():
    a = torch.randn(1, 4, 6)
    real, fake = torch.randn(2, 3, 1, 4, 6).unbind()
    penalty = gradient_penalty(Linear(a), real, fake, torch.zeros(3).long(), weight=4.0)
    assert penalty.item() == pytest.approx(4 * (a.norm().item() - 1) ** 2, rel=1e-5)


def test_penalty_reaches_the_critics_weights():
    critic = Linear(torch.full((1, 2, 2), 1.0))  # |a| = 2: d/da 4 (|a| - 1)^2 = 8 (|a| - 1) a / |a|
    real, fake = torch.randn(2, 3, 1, 2, 2).unbind()
    gradient_penalty(critic, real, fake, torch.zeros(3).long(), 4.0).backward()
    torch.testing.assert_close(critic.a.grad, torch.full((1, 2, 2), 4.0))


def test_penalty_is_taken_between_real_and_fake():
    class Square(nn.Module):
        def forward(self, x, labels):
            self.seen = x.detach()
            return x.square().sum(dim=(1, 2, 3))

    critic, real, fake = Square(), torch.ones(64, 1, 2, 2), torch.zeros(64, 1, 2, 2)
    torch.manual_seed(0)
    gradient_penalty(critic, real, fake, torch.zeros(64).long(), 1.0)
    place = critic.seen[:, 0, 0, 0]
    assert (critic.seen == place[:, None, None, None]).all()  # one place a clip
    assert 0 <= place.min() < 0.1
    assert 0.9 < place.max() <= 1


def test_a_patch_head_is_penalised_by_the_mean_of_its_patches():
    """Every patch scores <a, x>: so does their mean, whose slope is a, not their number times a."""
    a = torch.randn(1, 4, 6)

    class Patches(nn.Module):
        def forward(self, x, labels):
            return (x * a).sum(dim=(1, 2, 3))[:, None].expand(-1, 5)

    real, fake = torch.randn(2, 3, 1, 4, 6).unbind()
    penalty = gradient_penalty(Patches(), real, fake, torch.zeros(3).long(), 10.0)
    assert penalty.item() == pytest.approx(10 * (a.norm().item() - 1) ** 2, rel=1e-5)


def test_the_zero_centred_penalty_of_a_linear_critic():
    a = torch.full((1, 2, 3), 2.0)
    critic = Linear(a)
    x = torch.randn(5, 1, 2, 3, requires_grad=True)
    penalty = zero_centred_penalty(critic(x, None), x, 0.5)
    assert penalty.item() == pytest.approx(0.5 * 6 * 4)
    penalty.backward()
    torch.testing.assert_close(critic.a.grad, 0.5 * 2 * a)


# ---- by differences ------------------------------------------------------------------------------


def by_difference(critic: nn.Module, x: torch.Tensor, step: float, weight: float) -> torch.Tensor:
    return difference_penalty(critic, x, torch.zeros(len(x)).long(), step, weight)


@pytest.mark.parametrize("step", [0.01, 1.0])
def test_the_difference_of_a_line_is_its_slope_times_the_noise(step):
    a = torch.tensor([[[3.0]]], dtype=torch.float64)
    critic, x = Linear(a), torch.randn(6, 1, 1, 1, dtype=torch.float64)
    torch.manual_seed(0)
    noise = torch.randn_like(x)
    torch.manual_seed(0)
    penalty = by_difference(critic, x, step, 0.5)
    assert penalty.item() == pytest.approx(0.5 * 9 * noise.square().mean().item(), rel=1e-9)
    penalty.backward()
    assert critic.a.grad.item() == pytest.approx(3 * noise.square().mean().item(), rel=1e-9)


def test_differences_are_the_gradient_on_average():
    """Of a linear critic: within four standard errors, each clip's value being |a|^2 chi^2_1."""
    torch.manual_seed(0)
    a, count = torch.randn(1, 4, 6), 40_000
    x = torch.randn(count, 1, 4, 6)
    critic = Linear(a)
    exact = zero_centred_penalty(critic(x.requires_grad_(), None), x, 0.5)
    penalty = by_difference(critic, x.detach(), 0.1, 0.5)
    error = 4 * (2 / count) ** 0.5
    assert penalty.item() == pytest.approx(exact.item(), rel=error)
    slopes = [torch.autograd.grad(value, critic.a)[0] for value in (exact, penalty)]
    torch.testing.assert_close(slopes[1], slopes[0], atol=0.1, rtol=0)


def test_each_clip_has_noise_of_its_own_and_patches_count_by_their_mean():
    seen = []

    class Patches(nn.Module):
        def forward(self, x, labels):
            seen.append(x)
            return 3 * x.flatten(1)

    x = torch.zeros(5, 1, 1, 8)
    penalty = by_difference(Patches(), x, 0.1, 2.0)
    noise = seen[0][:5].view(5, 8) / 0.1
    assert torch.equal(seen[0][5:], -seen[0][:5])
    assert len({tuple(row.tolist()) for row in noise}) == 5
    torch.testing.assert_close(penalty, 2 * (3 * noise.mean(1)).square().mean())


def test_a_smooth_critic_comes_closer_with_a_smaller_step():
    """Of sum(x^4) / 4, with slope x^3: what is added falls with the square of the step."""

    class Power(nn.Module):
        def forward(self, x, labels):
            return x.pow(4).sum((1, 2, 3)) / 4

    torch.manual_seed(0)
    x = torch.ones(100_000, 1, 1, 1, dtype=torch.float64)
    errors = []
    for step in (0.4, 0.2, 0.1):
        torch.manual_seed(1)
        noise = torch.randn_like(x)
        torch.manual_seed(1)
        errors.append((by_difference(Power(), x, step, 1.0) - noise.square().mean()).item())
    assert errors[0] > 2.5 * errors[1] > 2.5**2 * errors[2] > 0


def test_nothing_is_read_back_for_a_difference():
    """What a CUDA graph can hold: no value decides anything."""

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert function._overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero")
            return function(*args, **(kwargs or {}))

    critic, x = Linear(torch.randn(1, 2, 3)), torch.randn(4, 1, 2, 3)
    with Reads():
        by_difference(critic, x, 0.1, 1.0).backward()
    assert critic.a.grad.isfinite().all()
    with pytest.raises(AssertionError), Reads():
        x.sum().item()
