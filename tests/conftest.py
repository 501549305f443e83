"""Small constants and a few seconds of sound: the whole suite takes minutes on two cores."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import config
from config import Config

# A shell that starts the tests in the background has them ignore Ctrl-C, and nohup a closed
# terminal; training respects that, and some tests send these.
for name in ("SIGINT", "SIGHUP"):
    number = getattr(signal, name, None)
    if number and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)


@pytest.fixture
def default() -> Config:
    return config.RECIPES["sn-wgan-gp"]


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    return tones(tmp_path / "data")


def tones(folder: Path) -> Path:
    """Three classes of six clips: a tone each, half a second at 8 kHz, with noise of its own."""
    rng = np.random.default_rng(0)
    for name, hz in {"low": 300, "mid": 900, "high": 2500}.items():
        (folder / name).mkdir(parents=True)
        for number in range(6):
            t = np.arange(4000) / 8000
            wave = 0.4 * np.sin(2 * np.pi * hz * t) + 0.01 * rng.standard_normal(len(t))
            soundfile.write(folder / name / f"{number}.wav", wave, 8000)
    return folder


@pytest.fixture
def small(default: Config, sounds: Path, tmp_path: Path) -> Config:
    """The default recipe with the same parts and tiny numbers: (1, 16, 32), 4 steps an epoch."""
    return shrunk(default, sounds, tmp_path / "outputs")


def shrunk(cfg: Config, data: Path, outputs: Path) -> Config:
    """A recipe with all its parts and tiny numbers, playable without a download."""
    wave = cfg.representation == "wave"
    plays = cfg.vocoder in (config.LIBROSA, config.NO_VOCODER)
    return replace(
        cfg,
        data_dir=str(data),
        output_dir=str(outputs),
        device="cpu",
        vocoder=cfg.vocoder if plays else config.GRIFFIN_LIM,
        sample_rate=8000,
        n_fft=256,
        hop=64,
        n_mels=16,
        f_max=4000.0,
        frames=32,
        latent_dim=8,
        generator_channels=(16, 8),
        critic_channels=(8, 16),
        critic_dropout=cfg.critic_dropout[:2],
        norm_groups=4,
        batch_size=4,
        epochs=4,
        sample_every=2,
        score_every=0,
        generator_lr=1e-3,
        critic_lr=1e-3 if not wave else 1e-4,
    )


def flags(cfg: Config) -> list[str]:
    """What follows `train.py` on a command line to get these constants from the default recipe."""
    usual = config.to_dict(config.RECIPES[cfg.recipe])
    words = []
    for name, value in config.to_dict(cfg).items():
        if value != usual[name]:
            values = value if isinstance(value, list) else [value]
            words += ["--" + name.replace("_", "-"), *map(str, values)]
    return words


def weights(network: torch.nn.Module) -> torch.Tensor:
    """All parameters and buffers as one vector."""
    return torch.cat([v.detach().flatten().double() for v in network.state_dict().values()])
