"""Sounds of a trained generator: latents, clips, waveforms."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from soundgan import files
from soundgan.audio import Vocoder
from soundgan.audio.files import wav_bytes
from soundgan.dataset.products import GENERATED
from soundgan.errors import UserError
from soundgan.settings import Config

STEM_BYTES = 255 - len("-9999.wav")  # of a file's name


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
    settings: str = "",
) -> list[Path]:
    """Write `count` WAVs of each class into a folder, and return their paths.

    `wanted`: the number of each class by the name that its files begin with. `settings`: what of
    them is not the run's own, for the names of the files. A file that is there keeps its content:
    other sounds get a number behind their name, and the same ones are not written again. Raises
    OSError that names a file; UserError where the sounds are no numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_unfinished(folder, older_than=files.DAY)  # of a kill
    mark_generated(folder)
    written, take = [], 1
    for name, label in wanted.items():
        waves = generate_sounds(cfg, generator, vocoder, label, count, seconds)
        for number, wave in enumerate(waves):
            if not bool(torch.isfinite(wave).all()):
                raise UserError(
                    f"What the generator makes of {name} is NaN or Inf: its weights or those of "
                    "the vocoder are damaged. Copy them back from a backup, or take another "
                    "--vocoder."
                )
            stem = file_stem(name, f"_seed{cfg.seed}{settings}_{number:04d}")
            content = wav_bytes(wave, cfg.sound.sample_rate)
            path, take = _place(folder, stem, content, take)
            if not os.path.lexists(path):
                files.write_bytes(path, content, durable=False)
            written.append(path)
    return written


def mark_generated(folder: Path) -> None:
    """Mark a folder of generated sounds as such, so that no run takes them for its data.

    One that holds other sounds as well is not marked: they would be left out, too.
    """
    others = [
        name
        for name in os.listdir(folder)
        if not name.startswith(".") and not GENERATED.fullmatch(name)
    ]
    if not others:
        files.write_bytes(folder / files.GENERATED_MARK, files.GENERATED_TEXT, durable=False)


def file_stem(name: str, rest: str) -> str:
    """The name of a file without its ending: `name` and `rest`, shortened to what can be stored.

    Of a long name the beginning is kept, and a digest tells it from others that begin so.
    """
    room = STEM_BYTES - len(os.fsencode(rest))
    whole = os.fsencode(name)
    if len(whole) > room:
        tail = f"~{files.digest(whole)[:8]}"
        name = whole[: room - len(tail)].decode(errors="ignore") + tail
    return name + rest


def _place(folder: Path, stem: str, content: bytes, take: int) -> tuple[Path, int]:
    """`STEM.wav`, `STEM-2.wav`, ...: the one that holds this content, or a free one; its number.

    Free ones count from `take` on, so that sounds that were made together are called alike.
    """
    for number in itertools.count(1):
        path = folder / f"{stem}{f'-{number}' if number > 1 else ''}.wav"
        if not os.path.lexists(path):
            if number >= take:
                return path, number
        elif _holds(path, content):
            return path, max(number, take)


def _holds(path: Path, content: bytes) -> bool:
    return (
        files.is_regular(path)
        and path.stat().st_size == len(content)
        and files.read_bytes(path) == content
    )
