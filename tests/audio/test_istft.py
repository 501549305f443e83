"""The small vocoder after Vocos: its network, its folder, and what of that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from refused_vocoders import refuses
from safetensors.torch import load, save

import config
from soundgan import audio
from soundgan.audio import istft
from soundgan.audio.griffin_lim import ShortTime
from soundgan.config_io import change
from soundgan.settings import Config

CPU = torch.device("cpu")
SMALL = istft.Size(width=8, blocks=2, iterations=0)


def network(cfg: Config, size: istft.Size = SMALL) -> istft.Network:
    torch.manual_seed(0)
    return istft.Network(cfg, size).eval().requires_grad_(False)


def write(folder: Path, cfg: Config, size: istft.Size = SMALL) -> Path:
    folder.mkdir()
    said = istft.about(cfg.sound, size)
    (folder / istft.ABOUT).write_bytes(said)
    state = network(cfg, size).state_dict()
    (folder / istft.WEIGHTS).write_bytes(istft.packed(state, said))
    return folder


@pytest.fixture
def folder(tmp_path, default) -> Path:
    return write(tmp_path / "own", default)


# ---- the network --------------------------------------------------------------------------------


def test_its_size(default):
    size = istft.Size(width=192, blocks=6, iterations=16)
    real = sum(p.numel() for p in istft.Network(default, size).parameters())
    assert real == 1_672_386
    assert istft.count(default.sound, size) == pytest.approx(real, rel=0.01)


@pytest.mark.parametrize("name", ["best", "cgan", "lofi-wgan"])
def test_untrained_it_has_the_levels_of_the_mels(name):
    """Any number of bands, any hop, any unit: the network adds to the bands' own magnitudes."""
    cfg = config.RECIPES[name]
    sound = cfg.sound
    t = torch.arange(20 * sound.hop) / sound.sample_rate
    wave = 0.2 * torch.randn(1, len(t), generator=torch.Generator().manual_seed(0))
    clip = audio.Transform(cfg)(wave)[:, 0]
    own = network(cfg)
    for parameter in own.head.parameters():
        parameter.zero_()
    played = own.play(clip)
    assert played.shape == (1, 21 * sound.hop)
    spectrum = own.spectrum(audio.expand(clip, cfg).mT, torch.zeros(1, 21, istft.NOISE))
    assert spectrum.shape == (1, 21, sound.n_fft // 2 + 1)
    assert spectrum.imag.abs().max() == 0  # the phases are zero, and magnitudes as of white noise
    theirs = ShortTime(sound.n_fft, sound.hop)(wave).abs()
    if sound.compression == "db":
        theirs = theirs / audio.Transform(cfg).mel(wave).amax().sqrt()
    ratio = spectrum.real[:, 2:-2, 5:300].mean() / theirs[:, 2:-2, 5:300].mean()
    assert ratio.item() == pytest.approx(1, abs=0.25)


def test_it_plays_the_same_every_time(default):
    clips = torch.randn(3, 80, 30, generator=torch.Generator().manual_seed(0)) - 5
    own = network(default)
    state = torch.get_rng_state()
    together = own.play(clips)
    assert torch.equal(together, own.play(clips))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(together[2:], own.play(clips[2:]), rtol=1e-3, atol=1e-5)


def test_griffin_lim_goes_on_from_its_spectrum(default):
    """The mels come nearer; frequencies above all bands keep the network's magnitudes."""
    transform = audio.Transform(default)
    wave = 0.1 * torch.randn(1, 40 * 256, generator=torch.Generator().manual_seed(0))
    clip = transform(wave)
    errors, highs = [], []
    for iterations in (0, 4, 16):
        size = istft.Size(width=8, blocks=2, iterations=iterations)
        played = network(default, size).play(clip[:, 0])[:, : 40 * 256]
        errors.append(float((transform(played) - clip).abs().mean()))
        highs.append(float(ShortTime(1024, 256)(played)[..., 390:].abs().mean()))
    assert errors[2] < 0.7 * errors[1] < 0.5 * errors[0]
    assert min(highs) > 0.2 * max(highs) > 0


# ---- a folder -----------------------------------------------------------------------------------


def test_a_folder_plays(default, folder):
    before = torch.get_rng_state()
    vocoder, note = audio.load_vocoder(change(default, {"vocoder": str(folder)}), CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(vocoder, audio.Istft)
    assert note == ""
    clips = torch.randn(2, 1, 80, 30, generator=torch.Generator().manual_seed(0)) - 5
    torch.testing.assert_close(vocoder(clips), network(default).play(clips[:, 0]))


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        ({"width": 0}, "width is 0, and must be a whole number from 8 to 4096"),
        ({"width": 10**9}, "width is 1000000000, and must be"),
        ({"width": 4096, "blocks": 64}, "over 1e8 weights"),
        ({"blocks": True}, "blocks is True"),
        ({"iterations": "16"}, "iterations is '16'"),
        ({"iterations": 10**6}, "must be a whole number from 0 to 1000"),
        ({"kernel": 7}, "it must have exactly blocks, grid, iterations, width"),
        ({"grid": 3}, "its grid must have exactly sample_rate"),
    ],
)
def test_constants_that_cannot_be_meant(default, folder, edit, part):
    about = json.loads((folder / istft.ABOUT).read_text()) | edit
    (folder / istft.ABOUT).write_text(json.dumps(about))
    refuses(change(default, {"vocoder": str(folder)}), "its istft.json cannot be used", part)


def test_another_grid(folder):
    cfg = change(config.RECIPES["cgan"], {"vocoder": str(folder)})
    refuses(cfg, "trained on another spectrogram", "n_mels = 128, not 80", "power = 2.0, not 1.0")


def test_damaged_files(default, folder):
    cfg = change(default, {"vocoder": str(folder)})
    path, content = folder / istft.WEIGHTS, (folder / istft.WEIGHTS).read_bytes()

    def holding(content: bytes, *parts: str) -> None:
        path.write_bytes(content)
        refuses(cfg, *parts)

    flipped = bytearray(content)
    flipped[-3] ^= 1
    holding(bytes(flipped), "a checksum differs")
    holding(content[:-100], "its istft.safetensors is damaged")
    holding(content + bytes(2**21), "larger than its network")
    holding(b"", "its istft.safetensors is damaged")
    state, said = load(content), (folder / istft.ABOUT).read_bytes()
    holding(save(state), "its istft.safetensors is damaged")  # without a checksum
    holding(istft.packed(state | {"head.bias": torch.full((1026,), torch.nan)}, said), "holds NaN")
    fewer = {name: value for name, value in state.items() if name != "head.bias"}
    holding(istft.packed(fewer, said), "do not fit its istft.json", "head.bias")
    path.write_bytes(content)
    (folder / istft.ABOUT).write_bytes(said.replace(b'"iterations": 0', b'"iterations": 1'))
    refuses(cfg, "a checksum differs")
    (folder / istft.ABOUT).write_text("{")
    refuses(cfg, "its istft.json cannot be used")
    (folder / istft.ABOUT).unlink()
    refuses(cfg, "the folder holds no istft.json")
