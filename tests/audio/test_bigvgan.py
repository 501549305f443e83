"""BigVGAN's generator and its folder, on weights that a formula makes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from refused_vocoders import refuses

from soundgan import audio
from soundgan.audio import bigvgan
from soundgan.audio.vocoders import HIFIGAN_GRID
from soundgan.config_io import change
from soundgan.evaluation import evaluator

CPU = torch.device("cpu")
PUBLISHED = {  # what nvidia/bigvgan_v2_22khz_80band_fmax8k_256x says of itself
    "resblock": "1",
    "upsample_rates": [4, 4, 2, 2, 2, 2],
    "upsample_kernel_sizes": [8, 8, 4, 4, 4, 4],
    "upsample_initial_channel": 1536,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "use_tanh_at_final": False,
    "use_bias_at_final": False,
    "activation": "snakebeta",
    "snake_logscale": True,
    "num_mels": 80,
    "n_fft": 1024,
    "hop_size": 256,
    "win_size": 1024,
    "sampling_rate": 22050,
    "fmin": 0,
    "fmax": 8000,
}
SMALL = PUBLISHED | {"upsample_initial_channel": 128, "resblock_kernel_sizes": [3, 5]}
SMALL |= {"resblock_dilation_sizes": [[1, 3, 5], [1, 2, 4]]}


def wavy(shape: torch.Size, phase: float) -> torch.Tensor:
    """Numbers that any version of any library makes the same."""
    count = int(np.prod(shape))
    at = np.arange(count)
    return torch.from_numpy(np.sin(0.7 * at + 0.013 * at**2 + phase).reshape(shape)).float()


def weights(about: dict) -> dict[str, torch.Tensor]:
    """Weights under the published names, where a norm's two parts are weight_g and weight_v."""
    state = {}
    for index, (name, value) in enumerate(sorted(bigvgan.Generator(about).state_dict().items())):
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        if name.endswith("weight_g"):
            state[name] = 0.55 * (1 + 0.3 * wavy(value.shape, index))
        elif name.endswith("filter"):
            state[name] = value
        else:
            state[name] = 0.2 * wavy(value.shape, index)
    return state


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "bigvgan", SMALL)


def write(folder: Path, about: dict, state: dict | None = None) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(about))
    torch.save({"generator": state or weights(about)}, folder / "bigvgan_generator.pt")
    return folder


# ---- the generator ------------------------------------------------------------------------------


def test_the_published_weights_would_fit():
    """Count, names and, but for the names' own room in it, the size of the published file."""
    with torch.device("meta"):
        generator = bigvgan.Generator(PUBLISHED)
    assert sum(p.numel() for p in generator.parameters()) == 112_231_249
    state = generator.state_dict()
    assert len(state) == 783
    room = 449_228_171 - 4 * sum(v.numel() for v in state.values())
    assert 0 < room < 500 * len(state)
    names = set(weights(SMALL))
    for name in (
        "conv_pre.weight_g",
        "ups.5.0.weight_v",
        "resblocks.11.convs1.1.bias",
        "resblocks.0.convs2.0.weight_g",
        "resblocks.0.activations.3.act.alpha",
        "resblocks.0.activations.0.act.beta",
        "resblocks.0.activations.0.upsample.filter",
        "resblocks.0.activations.0.downsample.lowpass.filter",
        "activation_post.act.beta",
        "conv_post.weight_v",
    ):
        assert name in names
    assert "conv_post.bias" not in names


# What NVIDIA's own generator (as PyPI's bigvgan 2.4.1 has it) makes of the same weights and mels.
OLDER = {"activation": "snake", "snake_logscale": False}
OLDER |= {"use_tanh_at_final": True, "use_bias_at_final": True}
EXPECTED = {
    "snakebeta": (
        {},
        [0.169798, -0.180785, 0.155239, -0.105656, 0.170194, -0.19503, 0.153986, -0.077258],
    ),
    "snake": (
        OLDER,
        [-0.04535, 0.091107, -0.079459, 0.102729, -0.010844, -0.070175, -0.007419, -0.063187],
    ),
}


def test_the_same_numbers_as_the_authors(tmp_path):
    for name, (edit, expected) in EXPECTED.items():
        about = SMALL | edit
        generator = bigvgan.load(write(tmp_path / name, about), HIFIGAN_GRID, CPU)
        wave = generator(3 * wavy(torch.Size([1, 80, 6]), 0.5) - 4)
        assert wave.shape == (1, 1, 6 * 256)
        torch.testing.assert_close(
            wave[0, 0, 50::200], torch.tensor(expected), rtol=1e-4, atol=1e-5
        )


def test_the_filters_pass_what_is_low_and_stop_what_is_high():
    taps = bigvgan.low_pass()[0, 0].double()
    at = torch.arange(12) - 5.5

    def gain(cycles: float) -> float:  # a sample
        return float((taps * torch.cos(2 * np.pi * cycles * at)).sum())

    assert gain(0) == pytest.approx(1, abs=1e-6)
    assert gain(0.25) == pytest.approx(0.5, abs=0.02)  # the edge of half the band
    assert max(abs(gain(c)) for c in np.arange(0.41, 0.5, 0.01)) < 0.005
    there_and_back = torch.nn.Sequential(bigvgan.Up(), bigvgan.Down())
    tone = torch.sin(0.5 * torch.arange(200.0))[None, None]
    error = (there_and_back(tone) - tone)[..., 20:-20].abs().max()
    assert error < 0.02


# ---- as a vocoder -------------------------------------------------------------------------------


def test_a_folder_plays(default, folder):
    cfg = change(default, {"vocoder": str(folder)})
    before = torch.get_rng_state()
    vocoder, note = audio.load_vocoder(cfg, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(vocoder, audio.BigVgan)
    assert note == ""
    mel = torch.randn(3, 1, 80, 50, generator=torch.Generator().manual_seed(0)) - 5
    wave = vocoder(mel)
    assert wave.shape == (3, 50 * 256)
    assert 0.01 < wave.abs().max() <= 1
    # The first half hop lies before our first frame.
    whole = bigvgan.load(folder, HIFIGAN_GRID, CPU)(mel[:, 0])[:, 0]
    some = 10 * 256  # far enough from the end, where a frame is repeated
    torch.testing.assert_close(wave[:, :some], whole[:, 128:][:, :some], rtol=1e-4, atol=1e-5)


def test_its_mels_are_ours_half_a_hop_later(default):
    """BigVGAN pads by (n_fft - hop) / 2 and does not centre: its frame t is ours of x[hop / 2:]."""
    x = np.random.default_rng(0).standard_normal(8192).astype(np.float32) * 0.1
    edge = (1024 - 256) // 2
    spectrum = librosa.stft(
        np.pad(x, edge, mode="reflect"), n_fft=1024, hop_length=256, center=False
    )
    bands = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
    theirs = np.log(np.maximum(bands @ np.sqrt(np.abs(spectrum) ** 2 + 1e-9), 1e-5))
    ours = audio.Transform(default)(torch.from_numpy(x[128:])[None])[0, 0].numpy()
    assert theirs.shape == (80, 32)
    np.testing.assert_allclose(ours[:, 2:29], theirs[:, 2:29], atol=2e-3)
    early = audio.Transform(default)(torch.from_numpy(x)[None])[0, 0].numpy()
    assert np.abs(early[:, 2:29] - theirs[:, 2:29]).mean() > 0.1


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        ({"fmax": None}, ("fmax = 11025.0, where 8000.0 is needed",)),
        ({"sampling_rate": 24000, "num_mels": 100}, ("24000", "num_mels = 100")),
        ({"upsample_rates": [4, 4, 2, 2, 2, 4]}, ("upsample_rates", "hop_size (256)")),
        ({"resblock": "2"}, ("residual blocks are of kind '2'",)),
        ({"activation": "relu"}, ("'relu'",)),
        ({"activation": ["snake"]}, ("activation", "snake or snakebeta")),
        ({"snake_logscale": "no"}, ("snake_logscale is 'no'", "true or false")),
        ({"num_mels": True}, ("num_mels = True, where 80",)),
        ({"sampling_rate": None, "fmax": None}, ("sampling_rate = None",)),
        ({"upsample_initial_channel": 10**12}, ("upsample_initial_channel is 1000000000000",)),
        ({"upsample_initial_channel": 1536.0}, ("upsample_initial_channel is 1536.0",)),
        (
            {"upsample_initial_channel": 2**14, "resblock_kernel_sizes": [1023, 1023]},
            ("less: over 1000000000 weights",),
        ),
        ({"upsample_kernel_sizes": [8, 8, 4, 4, 4]}, ("upsample_kernel_sizes", "one a stage")),
        ({"upsample_kernel_sizes": [7, 8, 4, 4, 4, 4]}, ("its rate plus an even number",)),
        ({"resblock_kernel_sizes": [4, 5]}, ("resblock_kernel_sizes", "odd")),
        ({"resblock_kernel_sizes": []}, ("resblock_kernel_sizes is []",)),
        ({"resblock_dilation_sizes": [[1, 3, 5]]}, ("resblock_dilation_sizes",)),
        ({"resblock_dilation_sizes": [[1, 3, 0], [1, 2, 4]]}, ("resblock_dilation_sizes",)),
        ({"resblock_dilation_sizes": "abc"}, ("resblock_dilation_sizes",)),
        ({"upsample_rates": {"a": 1}}, ("upsample_rates",)),
        ({"upsample_initial_channel": 192}, ("its weights do not fit its config.json", "conv_pre")),
        ({"resblock_kernel_sizes": [3, 7]}, ("its weights do not fit its config.json", "more")),
        ({"use_bias_at_final": True}, ("its weights do not fit its config.json", "conv_post.bias")),
    ],
)
def test_folders_of_another_form(default, folder, edit, parts):
    (folder / "config.json").write_text(json.dumps(SMALL | edit))
    refuses(change(default, {"vocoder": str(folder)}), *parts)


def test_folders_that_are_damaged(default, folder):
    cfg = change(default, {"vocoder": str(folder)})
    refuses(change(cfg, {"sound.n_mels": 64}), "n_mels = 64, not 80")
    torch.save(weights(SMALL), folder / "bigvgan_generator.pt")
    refuses(cfg, "no weights named generator")
    (folder / "bigvgan_generator.pt").write_bytes(b"rubbish")
    refuses(cfg, "its bigvgan_generator.pt is damaged, or holds more than weights")
    state = weights(SMALL)
    state["conv_pre.bias"] *= float("nan")
    torch.save({"generator": state}, folder / "bigvgan_generator.pt")
    refuses(cfg, "conv_pre.bias holds NaN, Inf or over 1e6")
    (folder / "bigvgan_generator.pt").unlink()
    refuses(cfg, "the folder holds no bigvgan_generator.pt")
    (folder / "config.json").write_text("{")
    (folder / "bigvgan_generator.pt").touch()
    refuses(cfg, "its config.json is damaged")
    (folder / "config.json").write_text("[]")
    refuses(cfg, "is none of BigVGAN")
    refuses(change(cfg, {"vocoder": "nvidia/bigvgan_v2_22khz_80band_fmax8k_256x"}), "a folder only")


def test_other_weights_need_another_evaluator(default, folder, tmp_path):
    """Scores that were kept of one file of weights are not those of the next."""
    vocoder, _ = audio.load_vocoder(change(default, {"vocoder": str(folder)}), CPU)

    class Clips:
        fingerprint = "same"

    before = evaluator._key(default, Clips, vocoder, ())
    assert evaluator._key(default, Clips, vocoder, ()) == before
    os.utime(folder / "bigvgan_generator.pt", ns=(1, 1))  # copied: the same weights
    assert evaluator._key(default, Clips, vocoder, ()) == before
    torch.save({"generator": {}}, folder / "bigvgan_generator.pt")
    assert evaluator._key(default, Clips, vocoder, ()) != before
