"""Sounds of a trained generator: latents, clips, waveforms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from soundgan.audio import Vocoder, write_wav
from soundgan.settings import Config


def draw_latents(cfg: Config, count: int, generator: torch.Generator) -> Tensor:
    """`z (count, latent_dim)` on the CPU, row by row: a higher count keeps the first ones.

    They spread `latent_spread` times as far as those of training.
    """
    uniform = cfg.generator.latent == "uniform"
    draw = torch.rand if uniform else torch.randn
    z = torch.stack([draw(cfg.latent_dim, generator=generator) for _ in range(count)])
    return cfg.generator.latent_spread * (2 * z - 1 if uniform else z)


@torch.no_grad()
def generate_clips(generator: nn.Module, z: Tensor, labels: Tensor) -> Tensor:
    """Clips `(B, 1, *S)` on the CPU, in evaluation mode; the mode is restored after.

    `z (B, latent_dim)`, or `(B, P, latent_dim)` for sounds of P times the length: the smallest maps
    of P latents are joined along time, and the convolutions after them blend these over the few
    frames that their kernels reach across a seam.
    """
    training = generator.training
    generator.eval()
    parts = z[:, None] if z.dim() == 2 else z  # (B, P, latent_dim)
    maps = [generator.fold(part, labels) for part in parts.unbind(1)]
    fake = generator.unfold(torch.cat(maps, dim=-1)).float().cpu()
    generator.train(training)
    return fake


def generate_sounds(
    cfg: Config,
    generator: nn.Module,
    vocoder: Vocoder,
    label: int,
    count: int,
    seconds: float = 0.0,
) -> Iterator[Tensor]:
    """Yield `count` waveforms of one class: `(T * hop,)`, or as many samples as `seconds` are.

    Each class starts from `cfg.seed` anew: what it sounds like depends on no other class.
    """
    sound = cfg.sound
    samples = round(seconds * sound.sample_rate) or sound.wav_samples
    unit = 1 if sound.raw else sound.hop  # samples that the last axis of a clip advances by
    length = math.ceil(samples / unit)  # of the clip, along its last axis
    parts = math.ceil(length / cfg.shape[-1])
    source = torch.Generator().manual_seed(cfg.seed)
    device = next(generator.parameters()).device
    index = torch.tensor([label], device=device)
    for _ in range(count):  # one by one: the size of a batch would decide how products are rounded
        z = draw_latents(cfg, parts, source)[None]  # (1, P, latent_dim)
        clip = generate_clips(generator, z.to(device), index)  # (1, 1, *S)
        yield vocoder(clip[..., :length])[0, :samples]


def write_sounds(
    cfg: Config,
    generator: nn.Module,
    vocoder: Vocoder,
    wanted: Mapping[str, int],
    count: int,
    seconds: float,
    folder: Path,
) -> list[Path]:
    """Write `count` WAVs of each class into a folder, and return their paths.

    `wanted`: the number of each class by the name that its files begin with. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, label in wanted.items():
        waves = generate_sounds(cfg, generator, vocoder, label, count, seconds)
        for number, wave in enumerate(waves):
            path = folder / f"{name}_seed{cfg.seed}_{number:04d}.wav"
            write_wav(path, wave, cfg.sound.sample_rate)
            written.append(path)
    return written
