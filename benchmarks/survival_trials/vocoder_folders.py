"""A tiny run whose spectrograms a HiFi-GAN and a BigVGAN play, and folders of both, untrained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

import train_vocoder
from soundgan.audio import bigvgan
from soundgan.vocoder_training.networks import build, hyperparams
from survival_trials import children
from survival_trials.scene import Scene

# The grid of the published vocoders.
SOUND = {"sound.sample_rate": 22050, "sound.n_fft": 1024, "sound.hop": 256, "sound.n_mels": 80}
SOUND |= {"sound.f_max": 8000.0, "epochs": 1, "score_every": 0}
SIZES = {"channels": 32, "resblock_kernels": (3,), "periods": (2,), "scales": 0}
BIGVGAN = {
    "resblock": "1",
    "upsample_rates": [4, 4, 2, 2, 2, 2],
    "upsample_kernel_sizes": [8, 8, 4, 4, 4, 4],
    "upsample_initial_channel": 64,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]],
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


def make(scene: Scene, output: Path) -> None:
    """Train the run, and write the folders `hifigan` and `bigvgan` beside it.

    Raises RuntimeError where it cannot be trained.
    """
    ended = scene.run("train", scene.words(output, **SOUND))
    if ended.code:
        raise RuntimeError(f"The run that is to be played failed: {ended.last}")
    ended = children.run(lambda: _write(output), scene.folder / "said.txt")
    if ended.code:
        raise RuntimeError(f"The vocoders could not be written: {ended.last}")


def _write(output: Path) -> None:
    torch.manual_seed(0)
    about = replace(train_vocoder.usual(), **SIZES)
    (output / "hifigan").mkdir()
    torch.save(build(about)[0].state_dict(), output / "hifigan" / "generator.ckpt")
    (output / "hifigan" / "hyperparams.yaml").write_text(hyperparams(about))
    state = {}
    for name, value in bigvgan.Generator(BIGVGAN).state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        state[name] = value
    (output / "bigvgan").mkdir()
    (output / "bigvgan" / "config.json").write_text(json.dumps(BIGVGAN))
    torch.save({"generator": state}, output / "bigvgan" / bigvgan.WEIGHTS)
