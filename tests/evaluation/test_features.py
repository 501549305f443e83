"""What scoring sees of a sound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from soundgan.evaluation import features


@pytest.mark.parametrize("rate", [16_000, 16_384, 44_100])
def test_a_sound_looks_alike_at_any_rate(rate: int) -> None:
    """Tones under 8 kHz: the same log-mels, and silence behind a sound that is too short."""

    def mels_at(rate: int) -> Tensor:
        at = torch.arange(rate) / rate
        tones = sum(torch.sin(2 * math.pi * hz * at) for hz in (110, 900, 3000, 7000))
        return features.log_mels(0.2 * tones[None], rate, 1.5)

    ours, own = mels_at(rate), mels_at(features.GRID["sample_rate"])
    assert ours.shape == own.shape
    middle = slice(2, -2 - own.shape[3] // 3)  # apart from where the tones begin and break off
    loud = own > own.max() - math.log(100)
    assert (ours - own)[loud].view(-1).abs().median() < 1e-3
    assert (ours - own)[..., middle][loud[..., middle]].abs().max() < 0.02
    assert torch.equal(ours[..., -8:], torch.full_like(ours[..., -8:], math.log(1e-4)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("samples", "rate"), [(1, 8000), (64, 16_384), (800, 8000)])
def test_sounds_too_short_for_a_frame_have_finite_features(samples, rate):
    waves = 0.1 * torch.randn(3, samples, generator=torch.Generator().manual_seed(0))
    with np.errstate(all="raise"):
        x = features.log_mels(waves, rate, samples / rate)
    assert x.shape[:3] == (3, 1, 64)
    assert x.shape[3] >= 3  # steps between frames have a deviation
    assert features.statistics(x).isfinite().all()


@pytest.mark.filterwarnings("error")
def test_no_sounds_are_an_empty_set(small):
    nothing = features.measure_files(small, [])
    assert nothing.x.shape == (0, 1, 64, int(small.clip_seconds * 22_050) // 512 + 1)
    assert len(nothing.labels) == 0
    assert features.statistics(nothing.x).shape == (0, 3 * 64)
