"""Forms of Griffin-Lim side by side: the program's own one is among them."""

from __future__ import annotations

import griffin_lim
import pytest
import torch

from soundgan.audio import GriffinLim, Transform, expand
from soundgan.config_io import change

CPU = torch.device("cpu")


@pytest.fixture
def forms(default) -> griffin_lim.Forms:
    return griffin_lim.Forms(change(default, {"sound.frames": 41}))


def test_one_of_them_is_what_runs_play(forms):
    clip = torch.randn(1, 1, 80, 41, generator=torch.Generator().manual_seed(0)) - 5
    plays = dict(forms.all())
    played = griffin_lim.Form(forms.cfg, plays["followed, 64, momentum 0.95"])(clip)
    assert torch.equal(played, GriffinLim(forms.cfg, CPU)(clip))
    assert len(plays) == 25


def test_a_steady_tone_goes_on_from_its_peaks(forms):
    """From phases of peaks, no iteration is needed: each frame goes on where the last one was."""
    t = torch.arange(40 * 256) / 22050
    wave = 0.5 * (2 * torch.pi * 689.0625 * t).sin()[None]  # frequency 32 of the transform
    mel = expand(Transform(forms.cfg)(wave)[:, 0], forms.cfg)[0]
    phases = forms.peaks(mel, 64)
    turns = (phases[1:, 32] * phases[:-1, 32].conj()).angle() / (2 * torch.pi)
    inner = slice(3, -3)
    torch.testing.assert_close(turns[inner], torch.zeros(34)[: len(turns[inner])], atol=0.1, rtol=0)


def test_the_non_negative_inversion_has_the_bands(forms):
    mel = torch.rand(80, 12, generator=torch.Generator().manual_seed(0)) + 0.1
    wanted = forms.bank.bands.T @ torch.rand(forms.bank.top, 12)  # that some magnitudes have
    for given, most in ((wanted, 0.02), (mel, 0.5)):
        magnitudes = forms.non_negative(given)
        assert magnitudes.shape == (12, 513)
        assert magnitudes.min() >= 0
        back = magnitudes[:, : forms.bank.top] @ forms.bank.bands
        assert ((back - given.T).abs() / given.T).mean() < most
