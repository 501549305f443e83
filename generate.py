"""New sounds from a trained run.

    python generate.py outputs/sn-wgan-gp --label dog_bark --count 8 --seed 1 --out my_sounds

Reads `generator.safetensors` and `config.json` of the run and nothing else, so that these two files
are all one needs to keep or to pass on.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

import audio
import config
import models
import runs
import train
from config import Config, UserError


@dataclass(frozen=True)
class Options:
    """New sounds from a trained run."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, such as outputs/sn-wgan-gp."""
    label: str = ""
    """Class to make; empty: every class."""
    count: int = 4
    """Sounds of each class."""
    seed: int = 0
    """The same seed makes the same sounds; a higher count only adds to them."""
    out: str = ""
    """Folder to write to; empty: RUN/generated."""
    vocoder: str = ""
    """Hub name or folder of a HiFi-GAN, or griffin-lim; empty: the run's own."""
    device: str = "auto"
    """auto, cuda, cuda:1, cpu."""


def load_run(run_dir: Path) -> tuple[Config, list[str], nn.Module]:
    """Constants, classes and trained generator (evaluation mode, on the CPU) of a run.

    Raises UserError where a file lacks, is damaged, or does not fit the other.
    """
    content = runs.read_config(run_dir)
    cfg = config.from_dict(content["config"], str(run_dir / "config.json"))
    generator, _ = models.build(cfg, len(content["classes"]))
    path = run_dir / "generator.safetensors"
    try:
        generator.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{run_dir} holds no generator.safetensors yet: it is written with the first samples."
        ) from error
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} is damaged or of another run ({error}).") from error
    return cfg, content["classes"], generator.eval()


def generate(options: Options) -> list[Path]:
    """Write `count` WAVs of each wanted class; returns their paths. Raises UserError."""
    if options.count < 1:
        raise UserError(f"count = {options.count}: must be at least 1 (--count).")
    cfg, classes, generator = load_run(Path(options.run))
    if options.label and options.label not in classes:
        near = config.nearest(options.label, classes)
        raise UserError(f"{options.run} knows no class {options.label!r}: {near}")
    cfg = dataclasses.replace(
        cfg, vocoder=options.vocoder or cfg.vocoder, device=options.device, seed=options.seed
    )
    device = runs.pick_device(cfg)
    generator.to(device)
    vocoder, note = audio.load_vocoder(cfg, device)
    if note:
        print(note, file=sys.stderr)
    out = Path(options.out or Path(options.run) / "generated")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for label in [options.label] if options.label else classes:
        index = classes.index(label)
        # Each class starts from the seed anew: what it sounds like depends on no other class.
        source = torch.Generator().manual_seed(options.seed)
        for first in range(0, options.count, config.VOCODER_BATCH):
            number = min(config.VOCODER_BATCH, options.count - first)
            z = train.draw_latents(cfg, number, source).to(device)  # (B, latent_dim)
            labels = torch.full((number,), index, device=device)
            waves = vocoder(train.generate(generator, z, labels))
            for offset, wave in enumerate(waves):
                path = out / f"{label}_seed{options.seed}_{first + offset:04d}.wav"
                audio.write_wav(path, wave, cfg.sample_rate)
                written.append(path)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with runs.friendly() as outcome:
        options = tyro.cli(Options, args=argv, description=__doc__)
        written = generate(options)
        print(f"Wrote {len(written)} WAVs to {written[0].parent}")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
