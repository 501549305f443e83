"""The networks are the published ones: shapes, parameter counts, initial weights, norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import config
import models

COUNTS = {  # generator, critic, at 10 classes
    "sn-wgan-gp": (3_815_073, 1_028_449),
    "cgan": (7_963_809, 1_415_521),
    "frequency-quest": (5_235_873, 1_181_153),
    "lofi-wgan": (14_789_058, 4_434_433),
    "wavegan": (19_065_345, 17_427_969),
}


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("recipe", COUNTS)
def test_parameter_counts_and_shapes(recipe):
    cfg = config.RECIPES[recipe]
    generator, critic = models.build(cfg, 10)
    assert (count(generator), count(critic)) == COUNTS[recipe]
    z, labels = torch.randn(2, cfg.latent_dim), torch.tensor([3, 9])
    x = generator(z, labels)
    assert x.shape == (2, *cfg.shape)
    patches = {"cgan": (2, 7 * 31)}  # a 4 x 4 patch head on an 8 x 32 map
    assert critic(x, labels).shape == patches.get(recipe, (2,))


def test_initial_weights(default):
    generator, critic = models.build(default, 10)
    original = critic.rungs[2].parametrizations.weight.original
    for weight in (generator.project[0].weight, generator.rungs[0].weight, original):
        assert weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert abs(weight.mean().item()) < 1e-3
    assert generator.project[0].bias.abs().max() == 0
    assert generator.rungs[1].weight.eq(1).all()  # GroupNorm is left alone


def test_output_is_clamped(default):
    generator, _ = models.build(default, 10)
    with torch.no_grad():
        generator.rungs[-1].weight.mul_(1e4)
        x = generator(torch.randn(4, 100), torch.zeros(4, dtype=torch.long))
    assert x.min() == -15
    assert x.max() == 1


def test_every_convolution_of_the_critic_is_spectrally_normalised(default):
    torch.manual_seed(0)
    _, critic = models.build(default, 10)
    convolutions = [m for m in critic.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 5
    for _ in range(30):  # power iterations, one a forward pass
        critic(torch.randn(1, *default.shape), torch.tensor([0]))
    critic.eval()
    for layer in convolutions:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=0.02)


def test_a_score_is_of_its_clip_alone(default):
    """What the gradient penalty needs: no statistic runs over the batch."""
    torch.manual_seed(0)
    _, critic = models.build(default, 10)
    critic.eval()
    x, labels = torch.randn(3, *default.shape), torch.tensor([0, 1, 2])
    together = critic(x, labels)
    alone = torch.cat([critic(x[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_labels_reach_both_networks(default):
    torch.manual_seed(0)
    generator, critic = models.build(default, 10)
    z, x = torch.randn(1, 100), torch.randn(1, *default.shape)
    a, b = torch.tensor([1]), torch.tensor([2])
    critic.eval()
    assert not torch.equal(generator(z, a), generator(z, b))
    assert not torch.equal(critic(x, a), critic(x, b))
