"""New sounds from a trained run.

    python generate.py outputs/sn-wgan-gp --label dog_bark --count 8 --seed 1 --out new_sounds

Reads `generator.safetensors` and `config.json` of the run and nothing else, so that these two files
are all one needs to keep or to pass on. No sound is ever overwritten: what is not made with the
run's own settings says so in its name, and a name that other sounds have gets a number.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

if __name__ == "__main__":
    from soundgan import startup

    startup.leave_on_interrupt()  # during the imports below, which take seconds

import tyro

from soundgan import config_io, console, files, models
from soundgan.audio import load_vocoder, may_fetch
from soundgan.command_line import expanded_path, imported
from soundgan.errors import UserError, nearest
from soundgan.models.loading import load_run
from soundgan.models.sampling import write_sounds
from soundgan.settings import Config
from soundgan.training.devices import explain_memory, pick_device

MAX_SECONDS = 600  # longest sound that is made at a time
MAX_SPREAD = 10  # as in a recipe


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


def generate(options: Options) -> list[Path]:
    """Write `count` WAVs of each wanted class; returns their paths. Raises UserError."""
    imported("config")  # every kind of part; here, as in train.py

    if options.count < 1:
        raise UserError(f"count = {options.count}: must be at least 1 (--count).")
    run_dir, label = Path(expanded_path(options.run)), files.nfc(options.label)
    cfg, classes, generator = load_run(run_dir, options.weights)
    _check(options, label, classes, cfg.sound.sample_rate)
    changes = {
        "vocoder": expanded_path(options.vocoder) or cfg.vocoder,
        "generator.latent_spread": options.latent_spread or cfg.generator.latent_spread,
        "device": options.device,
        "seed": options.seed,
        "deterministic": True,  # the same seed, the same sounds: worth more here than speed
        "tf32": False,
    }
    own, cfg = cfg, config_io.change(cfg, changes)
    cfg.check()
    out = _folder(options.out, run_dir)
    device = pick_device(cfg)
    models.place(generator, device)
    fetch = bool(options.vocoder) or may_fetch(cfg.vocoder)  # a run's config fetches nothing else
    vocoder, note = load_vocoder(cfg, device, fetch)
    if note:
        print(note, file=sys.stderr)
    labels = {name: number for number, name in enumerate(classes or ["sample"])}
    wanted = {label: labels[label]} if label else labels
    settings = _settings(options, cfg, own, vocoder.name)
    return write_sounds(
        cfg, generator, vocoder, wanted, options.count, options.seconds, out, settings
    )


def _folder(named: str, run_dir: Path) -> Path:
    """The folder to write to; raises UserError where there is something else in its place."""
    out = Path(expanded_path(named)) if named else run_dir / "generated"
    if not named and out.is_symlink():
        raise UserError(
            f"{out} is a link, and nothing is written through a link inside a run's folder: name "
            "the folder that is meant with --out."
        )
    if os.path.lexists(out) and not out.is_dir():
        raise UserError(f"{out} is no folder, and sounds need one: name another with --out.")
    return out


def _settings(options: Options, cfg: Config, own: Config, vocoder: str) -> str:
    """What of the sounds is not as the run's `own` constants say, for the names of their files."""
    spread = cfg.generator.latent_spread
    differs = {
        f"_spread{spread:g}": spread != own.generator.latent_spread,
        f"_{options.seconds:g}s": options.seconds,
        "_best": options.weights == "best",
        f"_{re.sub('[^A-Za-z0-9.-]+', '-', Path(vocoder).name)[:30]}": vocoder != own.vocoder,
    }
    return "".join(text for text, is_other in differs.items() if is_other)


def _check(options: Options, label: str, classes: list[str], rate: int) -> None:
    if label and label not in classes:
        near = nearest(label, classes) if classes else "it was trained without labels."
        raise UserError(f"{options.run} knows no class {label!r}: {near}")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"seed = {options.seed}: must lie between 0 and 2**63 - 1 (--seed).")
    if not 0 <= options.seconds <= MAX_SECONDS:
        raise UserError(
            f"seconds = {options.seconds:g}: must lie between 0 and {MAX_SECONDS} (--seconds)."
        )
    if options.seconds and round(options.seconds * rate) < 1:
        raise UserError(f"seconds = {options.seconds:g}: less than one sample (--seconds).")
    if options.latent_spread and not 0 < options.latent_spread <= MAX_SPREAD:
        raise UserError(
            f"latent_spread = {options.latent_spread:g}: must be over 0 and at most {MAX_SPREAD} "
            "(--latent-spread)."
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with console.friendly() as outcome:
        options = tyro.cli(Options, args=argv, description=__doc__)
        with explain_memory("make the sounds with --device cpu"):
            written = generate(options)
        many, folder = console.plural(len(written), "WAV"), written[0].parent
        print(f"Wrote {many} to {folder}, such as {written[0].name}")
        if not (folder / files.GENERATED_MARK).exists():
            print(
                f"{folder} holds other files, too: training knows these sounds there by their "
                "names alone. Give them a folder of their own with --out."
            )
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
