"""Judges, tried on sounds whose difference from real ones is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from soundgan.dataset import Recording
from soundgan.evaluation import two_sample as judges
from soundgan.evaluation.features import FLOOR
from soundgan.evaluation.sides import LEAST, Sides, divide, numbers_of_sources
from soundgan.evaluation.two_sample import Area, area_under_curve, two_sample

BANDS, FRAMES, TAKES = 64, 64, 2
CLIPS = 240  # to learn from, two takes a source; half as many are held out
NEPER = 8.686  # decibels


def sounds(count: int, seed: int) -> Tensor:
    """Log-mels `(count, 1, M, T)`, TAKES of each source: noises of spectra and envelopes of their
    own, with lines in some bands, on a floor."""
    draw = torch.Generator().manual_seed(seed)
    sources = count // TAKES

    def smooth(*size: int) -> Tensor:
        rough = torch.randn(sources, 1, *size, generator=draw)
        return interpolate(rough, (BANDS, FRAMES), mode="bicubic")

    x = 1.5 * smooth(4, 1) + 0.7 * smooth(1, 8) + 0.5 * smooth(16, 16) - 5
    lines = torch.rand(sources, 1, BANDS, 1, generator=draw) < 0.1
    x = (x + 0.1 * lines).repeat_interleave(TAKES, 0)
    x = x + torch.randn(len(x), 1, 1, 1, generator=draw)
    x = x + 0.25 * torch.randn(x.shape, generator=draw)  # as of a noise's magnitude
    return x.clamp(min=math.log(FLOOR))


def single(count: int, seed: int) -> Tensor:
    """The same, each of a source of its own."""
    return sounds(TAKES * count, seed)[::TAKES]


@pytest.fixture(scope="module")
def sides() -> Sides:
    sources = torch.arange(CLIPS // TAKES).repeat_interleave(TAKES)
    return Sides(sounds(CLIPS, 0), sources, sounds(CLIPS // 2, 1), CLIPS // 2)


def shelf(x: Tensor, decibels: float = 1.0) -> Tensor:
    """The upper half of the bands, softer by so much."""
    step = torch.where(torch.arange(BANDS) < BANDS // 2, 0.0, -decibels / NEPER)
    return (x + step[:, None]).clamp(min=math.log(FLOOR))


def blur(x: Tensor) -> Tensor:
    """Means over three frames."""
    return avg_pool2d(x, (1, 3), 1, (0, 1), count_include_pad=False)


def grid(x: Tensor) -> Tensor:
    """0.1 nepers (0.9 dB) more in every fourth frame."""
    return x + 0.1 * (torch.arange(FRAMES) % 4 == 0)


def stripes(x: Tensor) -> Tensor:
    """0.1 nepers more in every fourth band."""
    return x + 0.1 * (torch.arange(BANDS) % 4 == 0)[:, None]


# ---- what it finds -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [2, 4, 6, 8])
def test_real_sounds_are_not_told_from_real_ones(sides: Sides, seed: int) -> None:
    """Neither those of the other half, nor, as if they were generated, those of no half."""
    area = two_sample(Sides(sounds(CLIPS, seed), sides.sources, sounds(120, seed + 1), 120))
    assert 0.42 < area.mean < 0.58
    assert area.low <= area.mean <= area.high
    assert 0.42 < two_sample(sides, single(120, seed)).mean < 0.58


@pytest.mark.parametrize(
    ("change", "least"),
    [(shelf, 0.58), (lambda x: shelf(x, 2), 0.75), (blur, 0.99), (grid, 0.98), (stripes, 0.98)],
)
def test_what_differs_a_little_is_found(sides: Sides, change, least: float) -> None:
    """Of the same clips, and of others."""
    assert two_sample(sides, change(sides.x), paired=True).mean > least
    assert two_sample(sides, change(single(120, 3))).mean > least


def test_a_repeated_clip_is_found(sides: Sides) -> None:
    assert two_sample(sides, sounds(CLIPS, 3)[::24].repeat(12, 1, 1, 1)).mean > 0.9


def test_noise_and_silence_are_always_told(sides: Sides) -> None:
    noise = -5 + torch.randn(120, 1, BANDS, FRAMES, generator=torch.Generator().manual_seed(0))
    assert two_sample(sides, noise).low > 0.99
    assert two_sample(sides, torch.full((120, 1, BANDS, FRAMES), math.log(FLOOR))) == Area(1, 1, 1)


@pytest.mark.parametrize(("bands", "frames"), [(64, 3), (2, 2), (16, 11), (8, 44), (5, 300)])
def test_clips_of_any_length_can_be_judged(sides: Sides, bands: int, frames: int) -> None:
    """Also views of a few bands, or of a few frames."""
    shape = (bands, frames)
    real, unseen, other = (
        torch.randn(n, 1, *shape, generator=torch.Generator().manual_seed(n)) for n in (120, 60, 61)
    )
    own = Sides(real, torch.arange(120), unseen, 60)
    assert 0.3 < two_sample(own, other).mean < 0.7
    assert two_sample(own, other * 3).mean > 0.9


def test_it_repeats_and_draws_nothing(sides: Sides) -> None:
    other, before = single(120, 3), torch.get_rng_state()
    first = two_sample(sides, other)
    torch.manual_seed(3)
    assert two_sample(sides, other) == first
    torch.set_rng_state(before)
    np.random.seed(0)
    state = np.random.get_state()[1].tolist()
    assert two_sample(sides, other) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == state


# ---- the formulas --------------------------------------------------------------------------------


def test_area_is_that_of_the_curve() -> None:
    assert area_under_curve(np.array([1.0, 2]), np.array([0.0, 1, 3])) == (1.5 + 2) / 6
    rng = np.random.default_rng(0)
    real, other = rng.integers(0, 9, 50) / 2, rng.integers(2, 12, 31) / 2
    truth = np.repeat([1, 0], [50, 31])
    expected = roc_auc_score(truth, np.concatenate([real, other]))
    assert area_under_curve(real, other) == pytest.approx(expected, abs=1e-12)


def test_a_judge_solves_the_weighted_least_squares() -> None:
    """That of equation (1): the same direction as the primal problem has, by its gradient."""
    torch.manual_seed(0)
    real, other = torch.randn(9, 4).double() + 1, torch.randn(5, 4).double()
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0]).double()
    judge = judges.train_judge(real, other, weights)
    x = torch.cat([real, other])
    scale = weights / (x.std(0, correction=0) + judges.DEVIATION)
    seen = (x - (real.mean(0) + other.mean(0)) / 2) * scale
    w = (judge.normal / scale).requires_grad_()
    errors = [(seen[:9] @ w - 1).square().mean(), (seen[9:] @ w + 1).square().mean()]
    loss = 7 * sum(errors) + judges.RIDGE * w.square().sum()
    (gradient,) = torch.autograd.grad(loss, w)
    assert gradient.abs().max() < 1e-9
    assert judge(real).mean() > 0 > judge(other).mean()


# ---- who is on which side ------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [True, False])
def test_sources_stay_apart(held_out: bool) -> None:
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    rng.shuffle(names)
    x = torch.zeros(len(names), 1, 2, 2)
    own = Sides(x, torch.from_numpy(names), x[: 40 * held_out], 1000)
    seen = set()
    for seed in range(20):
        rows = divide(own, (seed,))
        parts = [names[part] for part in rows[:4]]
        for k, part in enumerate(parts):
            for other in parts[k + 1 :]:
                assert not set(part) & set(other)
        assert sum(map(len, parts)) == len(names)
        assert (len(rows.real_tried) == 0) == held_out
        assert abs(len(rows.real) + len(rows.real_tried) - len(names) / 2) < 9
        assert abs(len(rows.other_tried) - len(names) / 6) < 9
        assert rows.is_enough
        seen.add(tuple(sorted(rows.other_tried)))
    assert len(seen) == 20  # another division each
    assert [r.tolist() for r in divide(own, (7,))[:4]] == [
        r.tolist() for r in divide(own, (7,))[:4]
    ]


def test_takes_of_a_source_on_both_sides_would_be_taken_for_a_give_away(sides: Sides) -> None:
    """What keeping them apart is worth: others whose takes are learnt from and tried are known."""
    takes = single(CLIPS // 12, 3).repeat_interleave(12, 0)  # twelve of each source, all equal
    sources = torch.arange(CLIPS)
    apart, mixed = (
        two_sample(Sides(sides.x, of, sides.unseen, sides.most), takes, paired=True).mean
        for of in (sources // 12, sources)
    )
    assert 0.3 < apart < 0.7
    assert mixed > 0.95


@pytest.mark.parametrize("most", [30, 60, 1000])
def test_every_row_is_of_equally_many_sounds(sides: Sides, most: int, monkeypatch) -> None:
    """Of real others as of generated ones, however many there are of either."""
    learnt, tried = [], []
    train, area = judges.train_judge, judges.area_under_curve

    def counted_train(real: Tensor, other: Tensor, weights: Tensor) -> judges.Judge:
        learnt.append((len(real), len(other)))
        return train(real, other, weights)

    def counted_area(real: np.ndarray, other: np.ndarray) -> float:
        tried.append((len(real), len(other)))
        return area(real, other)

    monkeypatch.setattr(judges, "train_judge", counted_train)
    monkeypatch.setattr(judges, "area_under_curve", counted_area)
    own = Sides(sides.x, sides.sources, sides.unseen, most)
    counts = []
    for arguments in ({}, {"other": shelf(sides.x), "paired": True}, {"other": single(most, 5)}):
        learnt.clear(), tried.clear()
        two_sample(own, **arguments)
        counts.append((tuple(learnt), tuple(tried)))
    assert counts[0] == counts[1] == counts[2]
    assert len(counts[0][0]) == len(judges.SEEDS) * judges.DIVISIONS
    assert all(n <= round(most * 2 / 3) for _, n in counts[0][0])
    assert all(n <= round(most / 3) for _, n in counts[0][1])


def test_too_few_sounds_give_no_figure(sides: Sides) -> None:
    def area(clips: int, unseen: int, most: int) -> Area | None:
        x = sides.x[:clips]
        return two_sample(Sides(x, torch.arange(clips), sides.unseen[:unseen], most))

    assert area(60, 8, 60) is not None
    assert area(60, LEAST - 1, 60) is None
    assert area(60, 8, 3 * LEAST - 3) is None
    assert area(40, 8, 60) is None
    assert area(40, 0, 60) is None
    assert area(60, 0, 60) is not None  # nothing is held out: a part of the real half is tried
    assert area(1, 0, 60) is area(0, 0, 0) is None


def recordings(*names: str, digests: str = "") -> list[Recording]:
    digests = digests or [str(k) for k in range(len(names))]
    return [Recording(Path("/data") / name, 0, 0, d) for name, d in zip(names, digests)]


def groups(*names: str, digests: str = "") -> list[int]:
    return numbers_of_sources(recordings(*names, digests=digests), "/data").tolist()


def test_sources_are_those_that_are_held_out_whole() -> None:
    ends = [f"x/1-{k}-A.wav" for k in range(6)]  # ESC-50: sources of their own
    assert groups("x/1-9-A.wav", "x/1-9-B.wav", *ends) == [0, 0, 1, 2, 3, 4, 5, 6]
    speakers = groups("x/ann/one.wav", "y/ann/two.wav", *ends)
    assert speakers[0] == speakers[1]
    assert len(set(speakers)) == 7
    copies = groups("x/one.wav", "x/two.wav", *ends, digests="aabcdefg")
    assert copies[0] == copies[1]
    assert len(set(copies)) == 7
    # By way of a third: a take of the one is a copy of a take of the other.
    chain = groups(
        "x/3-1-A.wav", "x/3-1-B.wav", "y/4-2-A.wav", *ends * 2, digests="abbdefghijklmno"
    )
    assert chain[0] == chain[1] == chain[2]


def test_a_source_that_is_all_there_is_is_parted() -> None:
    """One folder for everything: by name; one file: by clip; copies together all the same."""
    assert len(set(groups(*[f"x/wavs/1-{k}-A.wav" for k in range(8)]))) == 8
    assert len(set(groups(*[f"x/take_{k}.wav" for k in range(8)]))) == 8
    long = ["x/long.wav"] * 8
    assert len(set(groups(*long))) == 8
    assert len(set(groups(*long, digests="aabcdefg"))) == 7
