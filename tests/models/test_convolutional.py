"""The networks are the published ones: shapes, parameter counts, initial weights, norms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import shrunk
from torch import nn

import config
import train
from soundgan import models
from soundgan.config_io import change
from soundgan.models.convolutional import (
    ConvolutionalCritic,
    ConvolutionalGenerator,
    PhaseShuffle,
    SelfAttention,
)
from soundgan.training.run import Run

PUBLISHED = [
    name
    for name, cfg in config.RECIPES.items()
    if isinstance(cfg.generator, ConvolutionalGenerator)
    and isinstance(cfg.critic, ConvolutionalCritic)
]
COUNTS = {  # generator, critic, at 10 classes
    "sn-wgan-gp": (3_815_073, 1_028_449),
    "cgan": (7_963_809, 1_415_521),
    "frequency-quest": (5_235_873, 1_181_153),
    "lofi-wgan": (14_789_058, 4_434_433),
    "wavegan": (19_065_345, 17_427_969),
    "best": (2_430_724, 1_100_682),
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
    original = critic.stages[2].parametrizations.weight.original
    for weight in (generator.project[0].weight, generator.stages[0].weight, original):
        assert weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert abs(weight.mean().item()) < 1e-3
    assert generator.project[0].bias.abs().max() == 0
    assert generator.stages[1].weight.eq(1).all()  # GroupNorm is left alone


def test_output_is_clamped(default):
    generator, _ = models.build(default, 10)
    with torch.no_grad():
        generator.stages[-1].weight.mul_(1e4)
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_output_ranges(name):
    cfg = config.RECIPES[name]
    torch.manual_seed(0)
    generator, _ = models.build(cfg, 10)
    generator.stages[-1 if not cfg.generator.norm_output else -2].weight.data.mul_(100)
    with torch.no_grad():
        x = generator(torch.randn(2, cfg.latent_dim), torch.tensor([0, 1]))
    low, high = {"clamp": (-15, 1), "relu": (0, np.inf), "tanh": (-1, 1)}[cfg.generator.output]
    assert low <= x.min() < x.max() <= high
    if cfg.generator.output == "relu":
        assert x.min() == 0


def test_phase_shuffle_shifts_each_clip_and_reflects():
    torch.manual_seed(0)
    x = torch.arange(8.0).repeat(400, 2, 1)
    shuffled = PhaseShuffle(2)(x)
    assert torch.equal(shuffled[:, 0], shuffled[:, 1])  # channels move together
    seen = {tuple(row.int().tolist()) for row in shuffled[:, 0]}
    assert seen == {
        (2, 1, 0, 1, 2, 3, 4, 5),
        (1, 0, 1, 2, 3, 4, 5, 6),
        (0, 1, 2, 3, 4, 5, 6, 7),
        (1, 2, 3, 4, 5, 6, 7, 6),
        (2, 3, 4, 5, 6, 7, 6, 5),
    }


def started(cfg):
    return Run.start(cfg, list("abc") if cfg.conditional else [], torch.device("cpu"))


def batch_of(cfg, count=4):
    torch.manual_seed(1)
    return torch.rand(count, *cfg.shape) * 0.5, torch.arange(count) % 3


@pytest.fixture(params=PUBLISHED)
def published(request, sounds, tmp_path):
    """Each published recipe in turn, with tiny numbers."""
    return shrunk(config.RECIPES[request.param], sounds, tmp_path / "outputs")


def test_attention_starts_as_the_identity_and_stands_at_maps_of_one_size(published):
    recipe = published
    plain = started(recipe)
    at = {"generator.attention": 1, "critic.attention": 1}  # of two stages each
    attending = started(change(recipe, at))
    for network in (attending.generator, attending.critic):
        (attention,) = [m for m in network.modules() if isinstance(m, SelfAttention)]
        assert attention.gamma == 0
    sizes = []
    for network in (attending.generator, attending.critic):
        (attention,) = [m for m in network.modules() if isinstance(m, SelfAttention)]
        attention.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[2:])))
        nn.init.normal_(attention.gamma)
    x, labels = batch_of(recipe)
    made = attending.generator(attending.latents(4), labels)
    attending.critic(x, labels)
    assert sizes[0] == sizes[1]
    made.sum().backward()
    assert attention.query.weight is not None
    assert sum(p.numel() for p in attending.generator.parameters()) > sum(
        p.numel() for p in plain.generator.parameters()
    )
    stats = train.full_step(attending, x, labels)  # through the penalty's second derivative too
    assert torch.isfinite(stats).all()


def test_attention_is_the_published_sum():
    torch.manual_seed(0)
    layer = SelfAttention(16, 2)
    layer.gamma.data.fill_(0.5)
    x = torch.randn(2, 16, 3, 4)
    q, k, v = (f(x).flatten(2) for f in (layer.query, layer.key, layer.value))
    expected = torch.zeros(2, 16, 12)
    for j in range(12):  # o_j = sum_i softmax_i(q_j . k_i) v_i
        weight = torch.softmax((q[:, :, j, None] * k).sum(1), dim=1)
        expected[:, :, j] = (v * weight[:, None]).sum(2)
    torch.testing.assert_close(layer(x), x + 0.5 * expected.view_as(x))
