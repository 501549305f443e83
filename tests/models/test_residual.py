"""The networks of `best`: styles, projection onto labels, units of deviation."""

from __future__ import annotations

import pytest
import torch
from conftest import shrunk
from torch import nn

import config
from soundgan import models
from soundgan.config_io import change

LABELS = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def best(sounds, tmp_path):
    return shrunk(config.RECIPES["best"], sounds, tmp_path / "outputs")


@pytest.mark.parametrize("blocks", ["convolutional", "residual"])
def test_networks_work_in_units_of_deviation(blocks, best, small):
    cfg = change(small, {"sound.standardise": True})
    if blocks == "residual":
        cfg = change(best, {"generator.denoiser_channels": ()})  # which works in nepers
    cfg = change(cfg, {"generator.output_range": (-100.0, 100.0)})
    generator, critic = (net.eval() for net in models.build(cfg, 3))
    z, x = torch.randn(4, cfg.latent_dim), torch.randn(4, *cfg.shape)
    torch.manual_seed(0)
    before, score = generator(z, LABELS), critic(x, LABELS)
    for network in (generator, critic):
        network.standardise.mean.fill_(-5.0)
        network.standardise.deviation.fill_(2.0)
    torch.manual_seed(0)
    torch.testing.assert_close(generator(z, LABELS), 2 * before - 5)
    torch.testing.assert_close(critic(2 * x - 5, LABELS), score)


def test_the_score_is_a_projection_onto_the_label(best):
    critic = models.build(best, 3)[1]
    x = torch.randn(1, *best.shape).expand(3, -1, -1, -1)
    scores, logits, latents = critic.outputs(x, torch.tensor([0, 1, 2]))
    features = {}
    critic.score.register_forward_hook(lambda _, inputs, __: features.update(h=inputs[0][0]))
    critic(x, torch.tensor([0, 1, 2]))
    h = features["h"]
    expected = critic.embedding @ h / len(h) ** 0.5
    torch.testing.assert_close(scores - scores[0], expected - expected[0])
    assert logits.shape == (3, 3)
    assert latents.shape == (3, best.latent_dim)


def test_evaluation_draws_nothing_from_the_random_state(best):
    generator = models.build(best, 3)[0]
    for block in generator.blocks:
        nn.init.ones_(block.noise)
    z = torch.randn(4, best.latent_dim)
    assert not torch.equal(generator(z, LABELS), generator(z, LABELS))  # in training, fresh noise
    generator.eval()
    state = torch.get_rng_state()
    once = generator(z, LABELS)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(generator(z, LABELS), once)
    torch.testing.assert_close(generator(z[:2], LABELS[:2]), once[:2])


def test_each_part_of_a_long_sound_has_its_own_style(best):
    best = change(best, {"generator.denoiser_channels": ()})
    generator = models.build(best, 3)[0].eval()
    for block in generator.blocks:  # as after some training: at first the style does nothing
        nn.init.normal_(block.first.affine.weight)
        nn.init.zeros_(block.noise)
    a, b = torch.randn(2, 1, best.latent_dim)
    label = torch.tensor([1])
    long = generator.unfold(torch.cat([generator.fold(a, label), generator.fold(b, label)], dim=3))
    assert long.shape == (1, 1, best.sound.n_mels, 2 * best.sound.frames)
    same = generator.unfold(torch.cat([generator.fold(a, label)] * 2, dim=3))
    first, second = same.chunk(2, dim=3)
    inner = slice(12, -12)  # away from the borders both halves are the same sound
    torch.testing.assert_close(first[..., inner], second[..., inner], atol=1e-4, rtol=1e-4)
    assert (long.chunk(2, dim=3)[1] - second).abs().mean() > 0.01
