"""Random changes of spectrograms, each alone and against numbers of its own."""

from __future__ import annotations

import math

import pytest
import torch

from soundgan.models import augmentation
from soundgan.models.augmentation import augment, jitter


def test_without_chance_nothing_is_changed():
    x = torch.randn(3, 1, 8, 10)
    assert augment(x, 0.0) is x


def test_each_change_alone(monkeypatch):
    x = torch.randn(400, 1, 20, 40)
    for name in vars(augmentation):
        if name.startswith("AUGMENT_"):
            monkeypatch.setattr(augmentation, name, 0.0)
    torch.testing.assert_close(augment(x, 1.0), x)

    monkeypatch.setattr(augmentation, "AUGMENT_TURN", 0.25)
    turned = augment(x, 1.0)
    torch.testing.assert_close(turned.sort(3).values, x.sort(3).values)
    shifts = [
        next(s for s in range(-10, 11) if torch.equal(torch.roll(a, s, 2), b))
        for a, b in zip(x, turned)
    ]
    assert (min(shifts), max(shifts)) in [(-9, 9), (-10, 9), (-9, 10), (-10, 10)]

    monkeypatch.setattr(augmentation, "AUGMENT_TURN", 0.0)
    monkeypatch.setattr(augmentation, "AUGMENT_GAIN", 0.5)
    gain = augment(x, 1.0) - x
    torch.testing.assert_close(gain, gain[..., :1, :1].expand_as(gain), atol=1e-5, rtol=0)
    assert gain[:, 0, 0, 0].std().item() == pytest.approx(0.5, rel=0.15)

    monkeypatch.setattr(augmentation, "AUGMENT_GAIN", 0.0)
    monkeypatch.setattr(augmentation, "AUGMENT_COLOUR", 0.5)
    colour = augment(x, 1.0) - x
    torch.testing.assert_close(colour, colour[..., :1].expand_as(colour), atol=1e-5, rtol=0)
    ends = colour[:, 0, [0, -1], 0]
    tilt, bend = (ends[:, 1] - ends[:, 0]) / 2, -ends.mean(1)
    rise = torch.linspace(-1, 1, 20)
    line = tilt[:, None] * rise + bend[:, None] * (1 - 2 * rise.abs())
    torch.testing.assert_close(colour[:, 0, :, 0], line, atol=1e-5, rtol=0)
    for part in (tilt, bend):
        assert part.std().item() == pytest.approx(0.5, rel=0.15)

    monkeypatch.setattr(augmentation, "AUGMENT_COLOUR", 0.0)
    monkeypatch.setattr(augmentation, "AUGMENT_PITCH", 0.1)
    places = torch.arange(20.0)[:, None].expand(400, 1, 20, 40)
    shifts = {2.0 - band.item() for band in augment(places, 1.0)[:, 0, 2, 0]}
    assert shifts == {-2, -1, 0, 1, 2}
    assert set(augment(places, 1.0)[:, 0, 0, 0].tolist()) == {0, 1, 2}  # the edge repeated

    monkeypatch.setattr(augmentation, "AUGMENT_PITCH", 0.0)
    monkeypatch.setattr(augmentation, "AUGMENT_SPEED", 0.3)
    places = torch.arange(40.0).expand(400, 1, 20, 40)
    speeds = augment(places, 1.0)[:, 0, 0, :25].diff(dim=1)  # before any comes round
    torch.testing.assert_close(speeds, speeds[:, :1].expand_as(speeds), atol=1e-4, rtol=0)
    assert math.exp(-0.3) < speeds.min() < 0.78
    assert 1.3 < speeds.max() < math.exp(0.3)

    monkeypatch.setattr(augmentation, "AUGMENT_SPEED", 0.0)
    monkeypatch.setattr(augmentation, "AUGMENT_MASK", 0.2)
    changed = augment(x, 1.0) != x  # whole bands and whole frames
    bands, frames = changed.all(3).sum((1, 2)), changed.all(2).sum((1, 2))
    assert bands.max() <= 5
    assert frames.max() <= 9
    assert bands.float().mean().item() == pytest.approx(0.1 * 20, rel=0.25)


def test_training_clips_vary_in_level_and_tilt(monkeypatch):
    x = torch.zeros(3000, 1, 5, 2)
    x[:, :, :, 1] = -9.0  # silence
    assert jitter(x, 0.0, -9.0) is x
    change = jitter(x, 2.0, -9.0)
    assert (change[..., 1] == -9).all()
    change = change[:, 0, :, 0]  # (N, M)
    line = change[:, 2:3] + (change[:, 4:] - change[:, 2:3]) * torch.linspace(-1, 1, 5)
    torch.testing.assert_close(change, line, atol=1e-5, rtol=0)
    assert change[:, 2].std().item() == pytest.approx(2 * augmentation.JITTER_LEVEL, rel=0.1)
    tilt = change[:, 4] - change[:, 2]
    assert tilt.std().item() == pytest.approx(2 * augmentation.JITTER_TILT, rel=0.1)
    assert change.mean(0).abs().max() < 0.1
    assert (jitter(x - 8.9, 2.0, -9.0) >= -9).all()


def test_the_chance_is_of_each_clip(monkeypatch):
    for name in ("TURN", "SPEED", "COLOUR", "PITCH", "MASK"):
        monkeypatch.setattr(augmentation, f"AUGMENT_{name}", 0.0)
    x = torch.zeros(4000, 1, 2, 2)
    changed = augment(x, 0.3).flatten(1).ne(0).any(1).float().mean()
    assert changed.item() == pytest.approx(0.3, abs=0.03)


def test_gradients_pass_through_it():
    torch.manual_seed(0)
    x = torch.randn(2, 1, 8, 10, requires_grad=True)
    augment(x, 1.0).sum().backward()
    assert x.grad.sum().item() == pytest.approx(2 * 80, rel=1e-4)  # what is masked goes to the mean
