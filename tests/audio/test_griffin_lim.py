"""Phase retrieval: the STFT and its inverse, torchaudio's numbers, and the step towards mels."""

from __future__ import annotations

import pytest
import torch
import torchaudio
from torch import Tensor

import config
from soundgan import audio
from soundgan.audio.griffin_lim import Bank, Magnitudes, Mels, ShortTime, random_phases, retrieve
from soundgan.audio.transform import expand, mel_bands
from soundgan.config_io import change

CPU = torch.device("cpu")


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("n_fft", "hop"), [(64, 16), (64, 24), (60, 50)])
def test_the_stft_is_torchs(n_fft, hop):
    """Also where frames overlap by no whole number of hops."""
    wave, window = noise(2, 9 * hop), torch.hann_window(n_fft)
    short_time = ShortTime(n_fft, hop)
    spectrum = short_time(wave)
    theirs = torch.stft(wave, n_fft, hop, window=window, return_complex=True)
    torch.testing.assert_close(spectrum.mT, theirs, rtol=1e-5, atol=1e-5)
    changed = spectrum * noise(*spectrum.shape)
    if hop <= n_fft // 2:  # torch refuses others
        theirs = torch.istft(changed.mT, n_fft, hop, window=window, length=wave.shape[1])
        torch.testing.assert_close(short_time.inverse(changed), theirs, rtol=1e-4, atol=1e-5)
    inner = slice(n_fft, -n_fft)
    back = short_time.inverse(spectrum)
    torch.testing.assert_close(back[:, inner], wave[:, inner], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_given_magnitudes_it_is_torchaudios(momentum):
    magnitudes = noise(2, 21, 33).abs()  # (B, T, F)
    theirs = torchaudio.transforms.GriffinLim(
        n_fft=64, hop_length=16, power=1.0, n_iter=6, momentum=momentum, rand_init=False
    )(magnitudes.mT)
    start = magnitudes.to(torch.complex64)
    ours = retrieve(ShortTime(64, 16), Magnitudes(magnitudes), start, 6, momentum)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_step_towards_mels_by_hand():
    """Two bands of four frequencies, of which the second is in both and the last in none."""
    bank = Bank(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [0.0, 0.0]]), power=1.0)
    assert bank.top == 3
    spectrum = torch.tensor([[[1j, -2.0, 1.0 + 0j]]])
    torch.testing.assert_close(bank.of(spectrum), torch.tensor([[[3.0, 4.0]]]))
    moved = Mels(bank, torch.tensor([[[6.0, 2.0]]]))(spectrum.clone())
    # Bands are to be twice and half of what they are; the second frequency takes the mean.
    torch.testing.assert_close(moved, torch.tensor([[[2j, -2.5, 0.5 + 0j]]]))
    same = Mels(bank, torch.tensor([[[3.0, 4.0]]]))(spectrum.clone())
    torch.testing.assert_close(same, spectrum)
    of_powers = Bank(bank.bands, power=2.0)
    torch.testing.assert_close(of_powers.of(spectrum), torch.tensor([[[5.0, 6.0]]]))
    moved = Mels(of_powers, torch.tensor([[[20.0, 24.0]]]))(spectrum.clone())
    torch.testing.assert_close(moved, 2 * spectrum)
    raised = Bank(torch.tensor([[0.0], [1.0], [2.0]]), power=1.0)
    moved = Mels(raised, torch.tensor([[[6.0]]]))(torch.tensor([[[3j, -1.0, 1.0 + 0j]]]))
    torch.testing.assert_close(moved, torch.tensor([[[6j, -2.0, 2.0 + 0j]]]))  # what is in no band
    silent = Mels(bank, torch.zeros(1, 1, 2))(torch.zeros(1, 1, 3, dtype=torch.complex64))
    assert silent.abs().max() == 0


@pytest.mark.parametrize("recipe", ["sn-wgan-gp", "cgan"])
def test_its_mels_are_nearer_than_those_of_least_squares(recipe):
    """At as many iterations; on real clips the error is a third."""
    cfg = config.RECIPES[recipe]
    sound, transform = cfg.sound, audio.Transform(cfg)
    t = torch.arange(40 * sound.hop) / sound.sample_rate
    wave = 0.1 * noise(1, len(t)) * (3 * t).cos().square() + 0.2 * (4000 * t + 9000 * t**2).sin()
    clip = transform(wave)

    def error(played: Tensor) -> float:
        return float((transform(played[:, : len(t)]) - clip).abs().mean())

    linear = torchaudio.transforms.InverseMelScale(
        n_stft=sound.n_fft // 2 + 1, driver="gelsd", **mel_bands(sound)
    )(expand(clip[:, 0], cfg))
    torch.manual_seed(0)
    before = torchaudio.transforms.GriffinLim(
        n_fft=sound.n_fft, hop_length=sound.hop, power=sound.power, n_iter=64
    )(linear)
    assert error(audio.GriffinLim(cfg, CPU)(clip)) < 0.7 * error(before)


def test_a_clip_sounds_the_same_wherever_it_stands(default):
    """In any batch, and at its beginning however long it is."""
    cfg = change(default, {"sound.frames": 41})
    clips = noise(3, 1, 80, 40) - 5
    vocoder = audio.GriffinLim(cfg, CPU)
    together = vocoder(clips)
    assert torch.equal(together[2], vocoder(clips[2:])[0])
    assert torch.equal(random_phases(50, 7)[:9], random_phases(9, 7))
    torch.testing.assert_close(random_phases(9, 7).abs(), torch.ones(9, 7))
