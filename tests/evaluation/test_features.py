"""What scoring sees of a sound."""

from __future__ import annotations

import math

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
