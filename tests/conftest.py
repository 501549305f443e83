"""Small constants and a few seconds of sound: the whole suite takes minutes on two cores."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

# Tensors are small here: two processes of one thread each (pytest-xdist) are quicker than one of
# two, whose threads wait for each other. Set before PyTorch is imported, and for what tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import soundfile
import torch

import config
import train
from soundgan import config_io
from soundgan.settings import GRIFFIN_LIM, LIBROSA, NO_VOCODER, Config

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
def long_file(tmp_path):
    """A minute of rising tone at 44.1 kHz in one file that lies in no class folder."""
    folder = tmp_path / "music"
    folder.mkdir()
    t = np.arange(60 * 44100) / 44100
    soundfile.write(folder / "long.flac", 0.5 * np.sin(2 * np.pi * (200 * t + 20 * t**2)), 44100)
    return folder


@pytest.fixture
def small(default: Config, sounds: Path, tmp_path: Path) -> Config:
    """The default recipe with the same parts and tiny numbers: (1, 16, 32), 4 steps an epoch."""
    return shrunk(default, sounds, tmp_path / "outputs")


def shrunk(cfg: Config, data: Path, outputs: Path) -> Config:
    """A recipe with all its parts and tiny numbers, playable without a download."""
    raw = cfg.sound.raw
    sound = {"samples": 32 * 64} if raw else SPECTROGRAM
    changes = {
        "data_dir": str(data),
        "output_dir": str(outputs),
        "device": "cpu",
        "vocoder": cfg.vocoder if cfg.vocoder in (LIBROSA, NO_VOCODER) else GRIFFIN_LIM,
        "batch_size": 4,
        "epochs": 4,
        "sample_every": 2,
        "score_every": 0,
        "sound.sample_rate": 8000,
        **{f"sound.{name}": value for name, value in sound.items()},
        "generator.latent_dim": 8,
        "generator.channels": (16, 8),
        "critic.channels": (8, 16),
        "optimiser.generator_lr": 1e-3,
        "optimiser.critic_lr": 1e-4 if raw else 1e-3,
    }
    for name in ("generator.norm_groups", "critic.norm_groups"):
        if name in config_io.flat(cfg):
            changes[name] = 4
    if cfg.recipe == "best":
        changes |= {"generator.denoiser_channels": (8, 16), "generator.denoiser_steps": 3}
    if "critic.dropout" in config_io.flat(cfg):
        changes["critic.dropout"] = cfg.critic.dropout[:2]
    return config_io.change(cfg, changes)


SPECTROGRAM = {"n_fft": 256, "hop": 64, "n_mels": 16, "f_max": 4000.0, "frames": 32}


def flags(cfg: Config) -> list[str]:
    """What follows `train.py` on a command line to get these constants from the default recipe."""
    usual = config_io.flat(config.RECIPES[cfg.recipe])
    words = []
    for name, value in config_io.flat(cfg).items():
        if value == usual.get(name):
            continue
        name = name.removesuffix(f".{config_io.KIND}")  # a part of another kind
        if isinstance(value, bool):
            words.append(config_io.flag(name, value))
            continue
        values = value if isinstance(value, list) else [value]
        words += [config_io.flag(name), *map(str, values)]
    return words


def weights(network: torch.nn.Module) -> torch.Tensor:
    """All parameters and buffers as one vector."""
    return torch.cat([v.detach().flatten().double() for v in network.state_dict().values()])


# ---- whole runs ----------------------------------------------------------------------------------


def log_without_seconds(cfg) -> list[list[str]]:
    with open(cfg.run_dir / "log.csv", newline="") as file:
        return [row[:2] + row[3:] for row in csv.reader(file)]


def stop_after(step: int, monkeypatch, number: int = signal.SIGTERM) -> None:
    """Send this process a signal in the middle of the given step."""
    real_step, taken = train.full_step, [0]

    def full_step(*arguments):
        taken[0] += 1
        if taken[0] == step:
            signal.raise_signal(number)
        return real_step(*arguments)

    monkeypatch.setattr(train, "full_step", full_step)


@pytest.fixture
def whole(small, tmp_path):
    """The run that is never stopped, in a folder of its own."""
    cfg = config_io.change(small, {"output_dir": str(tmp_path / "whole")})
    return train.train(cfg)
