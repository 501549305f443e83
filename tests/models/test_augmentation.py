"""Random changes of spectrograms, each alone and against numbers of its own."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from soundgan.models import augmentation
from soundgan.models.augmentation import augment, changed, jitter

WAYS = ("turn", "speed", "shift", "gain", "tilt", "bend", "bands", "times")


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


def written_out(x: torch.Tensor, uniform: torch.Tensor, normal: torch.Tensor, some: torch.Tensor):
    """All of `augment`, one change after the other, each by a formula of its own."""
    bands, frames = x.shape[2:]
    some = dict(zip(WAYS, some.float()))

    def either_way(number: int, most: float, way: str) -> torch.Tensor:
        return (2 * uniform[number] - 1) * most * some[way]

    at = torch.arange(frames) * either_way(1, 0.3, "speed").exp()
    at = at - either_way(0, 0.25 * frames, "turn").trunc()
    left = at.floor().long()
    pair = [x.gather(3, (side % frames).expand_as(x)) for side in (left, left + 1)]
    x = torch.lerp(*pair, at - left)
    rise = torch.linspace(-1, 1, bands)[:, None]
    x = x + 0.75 * normal[0] * some["gain"]
    x = x + 0.5 * normal[1] * some["tilt"] * rise
    x = x + 0.5 * normal[2] * some["bend"] * (1 - 2 * rise.abs())
    at = torch.arange(bands)[:, None] - either_way(2, 0.09 * bands, "shift").round().long()
    x = x.gather(2, at.clamp(0, bands - 1).expand_as(x))
    mean = x.mean((2, 3), keepdim=True)
    for axis, size, way in ((2, bands, "bands"), (3, frames, "times")):
        width = 0.2 * size * uniform[axis + 1] * some[way]
        first = (size - width) * uniform[axis + 3]
        place = torch.arange(size).view([-1 if k == axis else 1 for k in range(4)])
        x = torch.where((place >= first) & (place < first + width), mean, x)
    return x


@pytest.mark.parametrize("ways", [*((way,) for way in WAYS), WAYS, ()])
def test_each_change_is_what_its_formula_says_of_the_same_numbers(ways):
    torch.manual_seed(0)
    x = torch.randn(30, 1, 80, 352)
    uniform, normal = torch.rand(15, 30, 1, 1, 1), torch.randn(3, 30, 1, 1, 1)
    chosen = torch.tensor([way in ways for way in WAYS])
    uniform[7:] = torch.where(chosen.view(8, 1, 1, 1, 1), uniform[7:] * 0.4, 0.5)
    some = chosen.view(8, 1, 1, 1, 1).expand(8, 30, 1, 1, 1)
    ours = changed(x, uniform, normal, chance=0.5)
    torch.testing.assert_close(ours, written_out(x, uniform, normal, some), atol=2e-6, rtol=0)
    assert (ours != x).any() == bool(ways)


def test_ends_of_the_drawn_numbers():
    """Nothing leaves the map at the least and the most that can be drawn."""
    x = torch.randn(2, 1, 80, 352, dtype=torch.float64, requires_grad=True)
    for value in (0.0, 1 - 2**-24):
        uniform = torch.full((15, 2, 1, 1, 1), value, dtype=x.dtype)
        normal, some = torch.ones(3, 2, 1, 1, 1), torch.ones(8, 2, 1, 1, 1)
        y = changed(x, uniform, normal, chance=1.0)
        torch.testing.assert_close(y, written_out(x, uniform, normal, some), atol=1e-6, rtol=0)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert grad.sum().item() == pytest.approx(x.numel(), rel=1e-6)


def test_changes_are_independent_of_each_other_and_have_their_chance(monkeypatch):
    """Of each pair of ways, both hit a clip as often as their chances' product says."""
    seen = []
    monkeypatch.setattr(augmentation, "changed", lambda x, *drawn: seen.append(drawn) or x)
    torch.manual_seed(0)
    augment(torch.zeros(20000, 1, 1, 1), 0.3)
    uniform, normal, chance = seen[0]
    assert (uniform.shape, normal.shape) == ((15, 20000, 1, 1, 1), (3, 20000, 1, 1, 1))
    assert 0 <= uniform.min() < uniform.max() < 1
    numbers = torch.cat([(uniform[7:] < chance).float(), uniform[:7], normal]).flatten(1)
    means = numbers.mean(1)
    torch.testing.assert_close(means[:8], torch.full((8,), 0.3), atol=0.015, rtol=0)
    torch.testing.assert_close(means[8:15], torch.full((7,), 0.5), atol=0.015, rtol=0)
    torch.testing.assert_close(means[15:], torch.zeros(3), atol=0.03, rtol=0)
    others = torch.corrcoef(numbers) - torch.eye(18)
    assert others.abs().max() < 0.03  # 4.2 standard errors


def test_few_operations_and_two_draws():
    """A step of `best` is some thousand small operations, and this was a fifth of them."""
    x, counted = torch.randn(2, 1, 80, 352), Operations()
    with counted:
        augment(x, 0.6)
    drawn = [name for name in counted.names if name.startswith("rand")]
    assert sorted(drawn) == ["rand", "randn"]
    assert len(counted.names) < 85


class Operations(TorchDispatchMode):
    """Names of all operations within it, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


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
