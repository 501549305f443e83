"""The denoiser: what it learns, and what it makes of a clip."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import shrunk

import config
from soundgan import models
from soundgan.config_io import change
from soundgan.errors import UserError
from soundgan.models import denoiser
from soundgan.models.denoiser import FINEST, WINDOW, Denoiser, size

LABELS = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def best(sounds, tmp_path):
    return shrunk(config.RECIPES["best"], sounds, tmp_path / "outputs")


class Exact(Denoiser):
    """The noise of clips whose values are normal, of mean -3 and deviation 0.5, each for itself."""

    def forward(self, x, sigma, labels):
        sigma = sigma[:, None, None, None]
        return sigma * (x + 3) / (0.25 + sigma**2)


def test_the_probability_flow_ends_in_the_distribution_it_was_trained_on(monkeypatch):
    monkeypatch.setattr(denoiser, "SCALE", 1.0)
    exact = Exact(8, 3, (8, 8), 2.0)
    x, noise = torch.full((4, 1, 8, 12), -2.0), torch.randn(4, 1, 8, 12)
    made = exact.refine(x, LABELS, noise, 4000)
    # Along the flow the distance from the mean shrinks as the deviation of the noisy values does,
    # from sigma 2 to FINEST; the last step takes away the noise that is expected there.
    shrunk = math.sqrt((0.25 + FINEST**2) / (0.25 + 4.0)) * 0.25 / (0.25 + FINEST**2)
    torch.testing.assert_close(made, -3 + (1 + 2 * noise) * shrunk, atol=2e-3, rtol=0)


def test_few_steps_end_near_it_and_less_noise_is_taken_away():
    exact = Exact(8, 3, (8, 8), 1.5)
    x, noise = torch.randn(64, 1, 8, 12) / 2 - 3, torch.randn(64, 1, 8, 12)
    made = exact.refine(x, LABELS.repeat(16), noise, 12)
    assert abs(float(made.mean()) + 3) < 0.05
    # Euler steps alone would make 0.44 of 0.5 here: clips that are too smooth.
    assert abs(float(made.std()) - 0.5) < 0.04


def test_the_loss_compares_with_noise_of_every_sigma(monkeypatch):
    own, seen = Denoiser(8, 3, (8, 8), 1.5), []

    def nothing(x, sigma, labels):
        seen.append((x, sigma, labels))
        return torch.zeros_like(x)

    monkeypatch.setattr(own, "forward", nothing)
    real = torch.zeros(512, 1, 8, WINDOW + 32)
    labels = torch.arange(512) % 3
    assert abs(float(own.loss(real, labels)) - 1) < 0.02  # the variance of normal noise
    ((x, sigma, given),) = seen
    assert x.shape == (512, 1, 8, WINDOW)
    assert torch.equal(given, labels)
    assert sigma.min() >= FINEST * 0.999
    assert sigma.max() <= 1.5 * 1.001
    middle = math.log(FINEST * 1.5) / 2  # of the uniform logarithm, to 4 standard errors
    width = math.log(1.5 / FINEST)
    assert abs(float(sigma.log().mean()) - middle) < 4 * width / math.sqrt(12 * 512)
    torch.testing.assert_close(x.std((1, 2, 3)), sigma, atol=0, rtol=0.2)


def test_the_loss_looks_at_windows_of_the_clips(monkeypatch):
    own, seen = Denoiser(8, 3, (8, 8), 0.06), []
    monkeypatch.setattr(own, "forward", lambda x, *_: seen.append(x) or torch.zeros_like(x))
    frames = torch.arange(WINDOW + 50.0).expand(64, 1, 8, -1)
    own.loss(frames, torch.zeros(64, dtype=torch.long))
    there = seen[0].mean(2)[:, 0].round()  # noise of 0.06 hides no number of a frame
    first = there[:, :1]
    assert torch.equal(there, first + torch.arange(WINDOW))
    assert len(first.unique()) > 20
    assert first.min() >= 0
    assert first.max() <= 50


def test_a_clip_shorter_than_the_window_is_seen_whole():
    own = Denoiser(8, 3, (8, 8), 1.0)
    assert own.loss(torch.zeros(4, 1, 8, 12), LABELS).isfinite()


def stripes(labels):
    """Clips that vary along time alone, or (label 1) along the bands alone."""
    along = torch.randn(len(labels), 1, 1, 32).expand(-1, -1, 16, -1)
    across = torch.randn(len(labels), 1, 16, 1).expand(-1, -1, -1, 32)
    return torch.where(labels[:, None, None, None] == 0, along, across)


def test_it_learns_what_real_clips_are_made_of():
    torch.manual_seed(0)
    own = Denoiser(16, 2, (16, 16), 1.0)
    labels = torch.arange(8) % 2
    optimiser = torch.optim.Adam(own.parameters(), 3e-3)
    for _ in range(120):
        optimiser.zero_grad()
        own.loss(stripes(labels), labels).backward()
        optimiser.step()
    with torch.no_grad():
        assert own.loss(stripes(torch.arange(64) % 2), torch.arange(64) % 2) < 0.4  # 1 at first


def test_what_it_predicts_depends_on_label_and_sigma():
    torch.manual_seed(0)
    own = Denoiser(8, 3, (8, 8), 1.0)
    for block in (own.before, *own.middle, own.after):  # as after some training
        torch.nn.init.normal_(block.affine.weight)
        torch.nn.init.normal_(block.second.weight)
    x, sigma = torch.randn(1, 1, 8, 12).expand(3, -1, -1, -1), torch.tensor([0.1, 0.1, 1.0])
    with torch.no_grad():
        a, b, c = own(x, sigma, torch.tensor([0, 1, 0]))
    assert (a - b).abs().mean() > 0.1
    assert (a - c).abs().mean() > 0.1


# ---- within a generator --------------------------------------------------------------------------


def test_its_loss_and_the_generators_teach_different_weights(best):
    generator = models.build(best, 3)[0]
    generator.denoising_loss(torch.randn(4, *best.shape), LABELS).backward()
    own = {name for name, p in generator.named_parameters() if p.grad is not None}
    assert own == {name for name, _ in generator.named_parameters() if name.startswith("denoiser.")}
    generator.zero_grad()
    generator(torch.randn(4, best.latent_dim), LABELS).sum().backward()
    reached = {name for name, p in generator.named_parameters() if p.grad is not None}
    assert not any(name.startswith("denoiser.") for name in reached)


def test_evaluation_refines_with_noise_that_the_latent_decides(best):
    generator = models.build(best, 3)[0].eval()
    plain = models.build(change(best, {"generator.denoiser_channels": ()}), 3)[0].eval()
    named = generator.state_dict()
    plain.load_state_dict({k: v for k, v in named.items() if not k.startswith("denoiser.")})
    z = torch.randn(4, best.latent_dim)
    state = torch.get_rng_state()
    with torch.no_grad():
        made, before = generator(z, LABELS), plain(z, LABELS)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(generator(z, LABELS), made)
        alone = torch.cat([generator(z[k : k + 1], LABELS[k : k + 1]) for k in range(4)])
    torch.testing.assert_close(alone, made, atol=1e-4, rtol=1e-4)
    keys = models.residual.noise.keys(z)
    noise = generator.field(keys, len(generator.blocks), *best.shape[1:])
    with torch.no_grad():
        expected = generator.denoiser.refine(before, LABELS, noise, best.generator.denoiser_steps)
    torch.testing.assert_close(made, expected.clamp(*best.generator.output_range))
    assert (made - before).abs().mean() > 0.05


def test_without_classes_all_clips_have_one_label(best):
    generator = models.build(change(best, {"conditional": False}), 0)[0]
    assert generator.denoiser.label.num_embeddings == 1
    assert generator.denoising_loss(torch.randn(4, *best.shape), LABELS).isfinite()
    assert generator.eval()(torch.randn(4, best.latent_dim), LABELS).isfinite().all()


def test_its_size_is_foretold():
    for channels in ((8, 16), (48, 96), (128, 64)):
        count = sum(p.numel() for p in Denoiser(80, 10, channels, 1.0).parameters())
        assert 0.95 < size(80, 10, channels) / count <= 1


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"generator.denoiser_channels": (8,)}, "generator.denoiser_channels"),
        ({"generator.denoiser_channels": (8, 12)}, "generator.denoiser_channels"),
        ({"generator.denoiser_channels": (0, 8)}, "generator.denoiser_channels"),
        ({"generator.denoiser_noise": 0.03}, "generator.denoiser_noise"),
        ({"generator.denoiser_steps": 0}, "generator.denoiser_steps"),
        ({"sound.compression": "log1p", "sound.jitter": 0.0}, "generator.denoiser_channels"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changed, name, best):
    with pytest.raises(UserError, match=name):
        change(best, changed).check()
