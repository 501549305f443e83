"""What the recipe `best` adds to the published ones, each part against numbers of its own."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import shrunk
from test_graph import Recorder
from torch import nn

import config
import dataset
import graph
import models
import train
from augment import augment, vary
from config import UserError
from residual import Opinion

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def best(sounds, tmp_path):
    return shrunk(config.RECIPES["best"], sounds, tmp_path / "outputs")


@pytest.fixture
def run(best):
    return train.Run.start(best, list("abc"), CPU)


class Linear(nn.Module):
    """A critic whose score is <a, x>."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, x, labels):
        return (x * self.a).sum(dim=(1, 2, 3))


# ---- losses --------------------------------------------------------------------------------------


def test_relativistic_losses_are_of_pairs(best):
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.0])
    expected = (np.log(2) + np.log1p(np.exp(-3))) / 2
    assert train.critic_loss(best, real, fake).item() == pytest.approx(expected, rel=1e-6)
    expected = (np.log(2) + np.log1p(np.exp(3))) / 2
    assert train.generator_loss(best, fake, real).item() == pytest.approx(expected, rel=1e-6)


def test_the_zero_centred_penalty_of_a_linear_critic():
    a = torch.full((1, 2, 3), 2.0)
    critic = Linear(a)
    x = torch.randn(5, 1, 2, 3, requires_grad=True)
    penalty = train.zero_penalty(critic(x, None), x, 0.5)
    assert penalty.item() == pytest.approx(0.5 * 6 * 4)
    penalty.backward()
    torch.testing.assert_close(critic.a.grad, 0.5 * 2 * a)


def test_the_zero_centred_penalty_is_lazy(run, best):
    run.cfg = replace(best, zero_every=3)
    due = []
    for step in range(6):
        run.step = step
        due.append(train.zero_due(run))
    assert due == [True, False, False] * 2
    x = torch.randn(4, *best.shape)
    for step, positive in ((0, True), (1, False)):
        run.step = step
        penalty = train.critic_step(run, x, LABELS)[train.METRICS.index("gradient_penalty")]
        assert (penalty > 0) == positive


def test_what_is_told_is_of_the_right_clips(best):
    """Of real and generated clips, B each: classes of the first, latents of the last."""
    cfg = replace(best, aux_weight=2.0, recall_weight=3.0)
    z = torch.randn(4, cfg.latent_dim)
    logits, latents = torch.zeros(8, 3), torch.zeros(8, cfg.latent_dim)
    logits[range(4), LABELS] = 1.0
    latents[4:] = z + 0.5
    opinion = Opinion(torch.zeros(8), logits, latents)
    told = train.told_loss(cfg, opinion, LABELS, z)
    assert told.item() == pytest.approx(2 * np.log1p(2 * np.exp(-1)) + 3 * 0.25, rel=1e-5)
    alone = Opinion(torch.zeros(4), logits[:4], latents[4:])  # the generator's own clips
    assert train.told_loss(cfg, alone, LABELS, z).item() == pytest.approx(told.item())
    assert train.told_loss(replace(cfg, aux_weight=0.0, recall_weight=0.0), alone, LABELS, z) == 0


def test_both_penalties_count(run, best):
    """Wasserstein's own and the zero-centred one, where a run asks for both."""
    x = torch.randn(4, *best.shape)
    column = train.METRICS.index("gradient_penalty")
    penalties = []
    for gp_weight, zero_weight in ((5.0, 0.0), (5.0, 7.0)):
        run.cfg = replace(best, objective="wgan-gp", gp_weight=gp_weight, zero_weight=zero_weight)
        again = copy.deepcopy(run)
        torch.manual_seed(0)
        penalties.append(train.critic_step(again, x, LABELS)[column].item())
    assert penalties[1] > penalties[0] > 1


# ---- augmentation --------------------------------------------------------------------------------


def test_without_chance_nothing_is_changed():
    x = torch.randn(3, 1, 8, 10)
    assert augment(x, 0.0) is x


def test_each_change_alone(monkeypatch):
    x = torch.randn(400, 1, 20, 40)
    for name in vars(config):
        if name.startswith("AUGMENT_"):
            monkeypatch.setattr(config, name, 0.0)
    torch.testing.assert_close(augment(x, 1.0), x)

    monkeypatch.setattr(config, "AUGMENT_TURN", 0.25)
    turned = augment(x, 1.0)
    torch.testing.assert_close(turned.sort(3).values, x.sort(3).values)
    shifts = [
        next(s for s in range(-10, 11) if torch.equal(torch.roll(a, s, 2), b))
        for a, b in zip(x, turned)
    ]
    assert (min(shifts), max(shifts)) in [(-9, 9), (-10, 9), (-9, 10), (-10, 10)]

    monkeypatch.setattr(config, "AUGMENT_TURN", 0.0)
    monkeypatch.setattr(config, "AUGMENT_GAIN", 0.5)
    gain = augment(x, 1.0) - x
    torch.testing.assert_close(gain, gain[..., :1, :1].expand_as(gain), atol=1e-5, rtol=0)
    assert gain[:, 0, 0, 0].std().item() == pytest.approx(0.5, rel=0.15)

    monkeypatch.setattr(config, "AUGMENT_GAIN", 0.0)
    monkeypatch.setattr(config, "AUGMENT_COLOUR", 0.5)
    colour = augment(x, 1.0) - x
    torch.testing.assert_close(colour, colour[..., :1].expand_as(colour), atol=1e-5, rtol=0)
    ends = colour[:, 0, [0, -1], 0]
    tilt, bend = (ends[:, 1] - ends[:, 0]) / 2, -ends.mean(1)
    rise = torch.linspace(-1, 1, 20)
    line = tilt[:, None] * rise + bend[:, None] * (1 - 2 * rise.abs())
    torch.testing.assert_close(colour[:, 0, :, 0], line, atol=1e-5, rtol=0)
    for part in (tilt, bend):
        assert part.std().item() == pytest.approx(0.5, rel=0.15)

    monkeypatch.setattr(config, "AUGMENT_COLOUR", 0.0)
    monkeypatch.setattr(config, "AUGMENT_PITCH", 0.1)
    places = torch.arange(20.0)[:, None].expand(400, 1, 20, 40)
    shifts = {2.0 - band.item() for band in augment(places, 1.0)[:, 0, 2, 0]}
    assert shifts == {-2, -1, 0, 1, 2}
    assert set(augment(places, 1.0)[:, 0, 0, 0].tolist()) == {0, 1, 2}  # the edge repeated

    monkeypatch.setattr(config, "AUGMENT_PITCH", 0.0)
    monkeypatch.setattr(config, "AUGMENT_SPEED", 0.3)
    places = torch.arange(40.0).expand(400, 1, 20, 40)
    speeds = augment(places, 1.0)[:, 0, 0, :25].diff(dim=1)  # before any comes round
    torch.testing.assert_close(speeds, speeds[:, :1].expand_as(speeds), atol=1e-4, rtol=0)
    assert math.exp(-0.3) < speeds.min() < 0.78
    assert 1.3 < speeds.max() < math.exp(0.3)

    monkeypatch.setattr(config, "AUGMENT_SPEED", 0.0)
    monkeypatch.setattr(config, "AUGMENT_MASK", 0.2)
    changed = augment(x, 1.0) != x  # whole bands and whole frames
    bands, frames = changed.all(3).sum((1, 2)), changed.all(2).sum((1, 2))
    assert bands.max() <= 5
    assert frames.max() <= 9
    assert bands.float().mean().item() == pytest.approx(0.1 * 20, rel=0.25)


def test_training_clips_vary_in_level_and_tilt(monkeypatch):
    x = torch.zeros(3000, 1, 5, 2)
    x[:, :, :, 1] = -9.0  # silence
    assert vary(x, 0.0, -9.0) is x
    change = vary(x, 2.0, -9.0)
    assert (change[..., 1] == -9).all()
    change = change[:, 0, :, 0]  # (N, M)
    line = change[:, 2:3] + (change[:, 4:] - change[:, 2:3]) * torch.linspace(-1, 1, 5)
    torch.testing.assert_close(change, line, atol=1e-5, rtol=0)
    assert change[:, 2].std().item() == pytest.approx(2 * config.VARY_LEVEL, rel=0.1)
    tilt = change[:, 4] - change[:, 2]
    assert tilt.std().item() == pytest.approx(2 * config.VARY_TILT, rel=0.1)
    assert change.mean(0).abs().max() < 0.1
    assert (vary(x - 8.9, 2.0, -9.0) >= -9).all()


def test_both_networks_see_varied_clips(run, best, monkeypatch):
    seen = []
    monkeypatch.setattr(train, "vary", lambda x, *_: x + 100)
    monkeypatch.setattr(train, "augment", lambda x, _: seen.append(x.mean() > 50) or x)
    train.full_step(run, torch.zeros(4, *best.shape), LABELS)
    assert seen == [True, False, False, True]  # critic: real, fake; generator: fake, real


def test_the_chance_is_of_each_clip(monkeypatch):
    for name in ("TURN", "SPEED", "COLOUR", "PITCH", "MASK"):
        monkeypatch.setattr(config, f"AUGMENT_{name}", 0.0)
    x = torch.zeros(4000, 1, 2, 2)
    changed = augment(x, 0.3).flatten(1).ne(0).any(1).float().mean()
    assert changed.item() == pytest.approx(0.3, abs=0.03)


def test_gradients_pass_through_it():
    torch.manual_seed(0)
    x = torch.randn(2, 1, 8, 10, requires_grad=True)
    augment(x, 1.0).sum().backward()
    assert x.grad.sum().item() == pytest.approx(2 * 80, rel=1e-4)  # what is masked goes to the mean


# ---- averaged weights ----------------------------------------------------------------------------


def test_the_average_follows_the_generator(best):
    run = train.Run.start(replace(best, average=1.0), list("abc"), CPU)
    x = torch.randn(4, *best.shape)
    slow = run.generator.paint.weight.detach().clone()
    for step in range(1, 12):
        train.full_step(run, x, LABELS)
        keep = min(0.5, (1 + step) / (10 + step))
        slow = keep * slow + (1 - keep) * run.generator.paint.weight.detach()
        torch.testing.assert_close(run.average.paint.weight, slow)
    assert run.shown is run.average
    assert not torch.equal(run.average.paint.weight, run.generator.paint.weight)


def test_without_average_the_generator_is_shown(small):
    run = train.Run.start(small, list("abc"), CPU)
    assert run.average is None
    assert run.shown is run.generator


# ---- standardised spectrograms -------------------------------------------------------------------


def test_band_statistics_are_those_of_the_training_clips(best):
    clips = dataset.load_clips(best, dataset.find_clips(best))
    rows = np.array([1, 4, 7, 9])
    mean, deviation = dataset.band_statistics(clips, rows)
    x = np.array(clips.data[rows])[:, 0]  # (4, M, T)
    np.testing.assert_allclose(mean[:, 0], x.mean((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(deviation[:, 0], x.std((0, 2)), rtol=1e-4)


@pytest.mark.parametrize("blocks", ["plain", "residual"])
def test_networks_work_in_units_of_deviation(blocks, best, small):
    cfg = best if blocks == "residual" else replace(small, standardise=True)
    cfg = replace(cfg, output_range=(-100.0, 100.0))
    generator, critic = (net.eval() for net in models.build(cfg, 3))
    z, x = torch.randn(4, cfg.latent_dim), torch.randn(4, *cfg.shape)
    torch.manual_seed(0)
    before, score = generator(z, LABELS), critic(x, LABELS)
    for network in (generator, critic):
        network.standard.mean.fill_(-5.0)
        network.standard.deviation.fill_(2.0)
    torch.manual_seed(0)
    torch.testing.assert_close(generator(z, LABELS), 2 * before - 5)
    torch.testing.assert_close(critic(2 * x - 5, LABELS), score)


# ---- networks ------------------------------------------------------------------------------------


def test_the_score_is_a_projection_onto_the_label(best):
    critic = models.build(best, 3)[1]
    x = torch.randn(1, *best.shape).expand(3, -1, -1, -1)
    scores, logits, latents = critic.judge(x, torch.tensor([0, 1, 2]))
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
    for rung in generator.rungs:
        nn.init.ones_(rung.noise)
    z = torch.randn(4, best.latent_dim)
    assert not torch.equal(generator(z, LABELS), generator(z, LABELS))  # in training, fresh noise
    generator.eval()
    state = torch.get_rng_state()
    once = generator(z, LABELS)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(generator(z, LABELS), once)
    torch.testing.assert_close(generator(z[:2], LABELS[:2]), once[:2])


def test_each_part_of_a_long_sound_has_its_own_style(best):
    generator = models.build(best, 3)[0].eval()
    for rung in generator.rungs:  # as after some training: at first the style does nothing
        nn.init.normal_(rung.first.affine.weight)
        nn.init.zeros_(rung.noise)
    a, b = torch.randn(2, 1, best.latent_dim)
    label = torch.tensor([1])
    long = generator.unfold(torch.cat([generator.fold(a, label), generator.fold(b, label)], dim=3))
    assert long.shape == (1, 1, best.n_mels, 2 * best.frames)
    same = generator.unfold(torch.cat([generator.fold(a, label)] * 2, dim=3))
    first, second = same.chunk(2, dim=3)
    inner = slice(12, -12)  # away from the borders both halves are the same sound
    torch.testing.assert_close(first[..., inner], second[..., inner], atol=1e-4, rtol=1e-4)
    assert (long.chunk(2, dim=3)[1] - second).abs().mean() > 0.01


def test_every_part_reaches_every_weight(run, best):
    """One step with all of it on moves all parameters of both networks."""
    before = [p.detach().clone() for net in (run.generator, run.critic) for p in net.parameters()]
    train.full_step(run, torch.randn(4, *best.shape), LABELS)
    train.full_step(run, torch.randn(4, *best.shape), LABELS)
    after = [p for net in (run.generator, run.critic) for p in net.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after))


# ---- training ------------------------------------------------------------------------------------


def test_there_is_a_graph_of_each_kind_of_step(best, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(graph, "why_plain", lambda *_: "")
    monkeypatch.setattr(graph, "Graphs", lambda: recorder)
    train.train(replace(best, epochs=6, zero_every=2))
    assert recorder.captured == 2  # with the zero-centred penalty, and without
    assert recorder.replayed > 0


@pytest.mark.parametrize(
    "changed",
    [
        {"standardise": True},
        {"objective": "relativistic", "zero_weight": 1.0},
        {"augment": 0.5},
        {"vary": 1.0},
        {"average": 5.0},
    ],
)
def test_a_part_added_to_the_default_trains(changed, small):
    run = train.train(replace(small, epochs=1, **changed))
    assert all(torch.isfinite(p).all() for p in run.generator.parameters())


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"style_dim": 8}, "style_dim"),
        ({"aux_weight": 0.1}, "aux_weight"),
        ({"augment": 1.5}, "augment"),
        ({"recall_weight": 0.1}, "recall_weight"),
        ({"vary": -1.0}, "vary"),
        ({"objective": "bce", "critic_norm": "batch", "zero_weight": 1.0}, "zero_weight"),
        ({"vary": 1.0, "compression": "log1p"}, "vary"),
        ({"patch": 4}, "patch"),
        ({"zero_every": 0}, "zero_every"),
        ({"average": -1.0}, "average"),
        ({"blocks": "residual"}, "patch"),
        ({"blocks": "residual", "patch": 4}, "style_dim"),
        (
            {"blocks": "residual", "patch": 12, "style_dim": 8, "critic_features": 8},
            "generator_channels",
        ),
    ],
)
def test_what_does_not_fit_is_named(changed, name, small):
    with pytest.raises(UserError, match=f"^{name} = "):
        config.check(replace(small, **changed))
