"""New sounds from a trained run.

    python generate.py outputs/sn-wgan-gp --label dog_bark --count 8 --seed 1 --out my_sounds

Reads `generator.safetensors` and `config.json` of the run and nothing else, so that these two files
are all one needs to keep or to pass on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

import audio
import config
import desk
import models
import runs
from config import Config, UserError


@dataclass(frozen=True)
class Options:
    """New sounds from a trained run."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, such as outputs/sn-wgan-gp."""
    label: str = ""
    """Class to make; empty: every class (a run without labels knows none)."""
    count: int = 4
    """Sounds of each class."""
    seed: int = 0
    """The same seed makes the same sounds; a higher count only adds to them."""
    seconds: float = 0.0
    """Length of each sound; 0: that of the training clips. A longer one is made from several
    latents, whose sounds follow one another; the network blends them where they meet."""
    out: str = ""
    """Folder to write to; empty: RUN/generated."""
    weights: Literal["last", "best"] = "last"
    """last: of the newest set of samples; best: of the scoring with the least kernel distance."""
    vocoder: str = ""
    """Hub name or folder of a HiFi-GAN or BigVGAN v2, or griffin-lim; empty: the run's own."""
    latent_spread: float = 0.0
    """Under 1 more typical sounds, over 1 more different ones; 0: the run's own latent_spread."""
    device: str = "auto"
    """auto, cuda, cuda:1, cpu."""


WEIGHTS = {"last": "generator.safetensors", "best": "best.safetensors"}


def load_run(run_dir: Path, weights: str = "last") -> tuple[Config, list[str], nn.Module]:
    """Constants, classes and trained generator (evaluation mode, on the CPU) of a run.

    Raises UserError where a file lacks, is damaged, or does not fit the other.
    """
    content = runs.read_config(run_dir)
    cfg = config.from_dict(content["config"], str(run_dir / "config.json"))
    generator, _ = models.build(cfg, len(content["classes"]))
    path = run_dir / WEIGHTS[weights]
    try:
        generator.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        when = "the first samples" if weights == "last" else "the first scoring (score_every)"
        raise UserError(
            f"{run_dir} holds no {path.name} yet: it is written with {when}."
        ) from error
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} is damaged or of another run ({error}).") from error
    return cfg, content["classes"], generator.eval()


def trained(run_dir: Path, weights: str = "last") -> dict:
    """What the weights of a run say of themselves: recipe, epoch and step."""
    with safe_open(run_dir / WEIGHTS[weights], "pt") as file:
        return json.loads(file.metadata()["trained"])


def generate(options: Options) -> list[Path]:
    """Write `count` WAVs of each wanted class; returns their paths. Raises UserError."""
    if options.count < 1:
        raise UserError(f"count = {options.count}: must be at least 1 (--count).")
    cfg, classes, generator = load_run(Path(options.run), options.weights)
    if options.label and options.label not in classes:
        near = (
            config.nearest(options.label, classes) if classes else "it was trained without labels."
        )
        raise UserError(f"{options.run} knows no class {options.label!r}: {near}")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"seed = {options.seed}: must lie between 0 and 2**63 - 1 (--seed).")
    if not 0 <= options.seconds <= config.MAX_SECONDS:
        raise UserError(
            f"seconds = {options.seconds:g}: must lie between 0 and {config.MAX_SECONDS} "
            "(--seconds)."
        )
    cfg = dataclasses.replace(
        cfg,
        vocoder=options.vocoder or cfg.vocoder,
        latent_spread=options.latent_spread or cfg.latent_spread,
        device=options.device,
        seed=options.seed,
        deterministic=True,  # the same seed, the same sounds: worth more here than speed
        tf32=False,
    )
    config.check(cfg)
    device = runs.pick_device(cfg)
    models.place(generator, device)
    vocoder, note = audio.load_vocoder(cfg, device)
    if note:
        print(note, file=sys.stderr)
    out = Path(options.out or Path(options.run) / "generated")
    out.mkdir(parents=True, exist_ok=True)
    names = classes or ["sample"]
    written = []
    for label in [options.label] if options.label else names:
        made = sounds(cfg, generator, vocoder, names.index(label), options.count, options.seconds)
        for number, wave in enumerate(made):
            path = out / f"{label}_seed{options.seed}_{number:04d}.wav"
            audio.write_wav(path, wave, cfg.sample_rate)
            written.append(path)
    return written


def sounds(
    cfg: Config,
    generator: nn.Module,
    vocoder: audio.Vocoder,
    label: int,
    count: int,
    seconds: float = 0.0,
) -> Iterator[torch.Tensor]:
    """Yield `count` waveforms of one class: `(T * hop,)`, or as many samples as `seconds` are.

    Each class starts from `cfg.seed` anew: what it sounds like depends on no other class.
    """
    samples = round(seconds * cfg.sample_rate) or cfg.wav_samples
    frames = math.ceil(samples / cfg.hop)
    parts = math.ceil(frames / cfg.frames)
    source = torch.Generator().manual_seed(cfg.seed)
    device = next(generator.parameters()).device
    index = torch.tensor([label], device=device)
    for _ in range(count):  # one by one: the size of a batch would decide how products are rounded
        z = desk.draw_latents(cfg, parts, source)[None]  # (1, P, latent_dim)
        clip = desk.generate(generator, z.to(device), index)  # (1, 1, *S)
        length = samples if cfg.representation == "wave" else frames
        yield vocoder(clip[..., :length])[0, :samples]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with runs.friendly() as outcome:
        options = tyro.cli(Options, args=argv, description=__doc__)
        with runs.explain_memory("make the sounds with --device cpu"):
            written = generate(options)
        print(f"Wrote {len(written)} WAVs to {written[0].parent}")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
