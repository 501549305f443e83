"""Scores of a trained run.

    python evaluate.py outputs/sn-wgan-gp

Generates sounds, plays them through the run's vocoder, and measures them beside held-out real
sounds and beside the same real sounds through the vocoder. Writes `scores.json` into the run and
prints the table. No network is downloaded; minutes on a CPU. What each figure means stands in
the README and, with its paper, in `distances.py`.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

import audio
import config
import dataset
import desk
import generate
import models
import page
import runs
import scores
from config import Config, UserError


@dataclass(frozen=True)
class Options:
    """Scores of a trained run."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, such as outputs/sn-wgan-gp."""
    data_dir: str = ""
    """Folder of the real sounds; empty: the one it was trained on."""
    holdout_dir: str = ""
    """Folder of real sounds to score against; empty: those that the run held out."""
    weights: Literal["last", "best"] = "last"
    """Which weights to score."""
    count: int = 0
    """Sounds a class to generate; 0: as many as the run says (score_clips)."""
    vocoder: str = ""
    """Hub name or folder of a HiFi-GAN or BigVGAN v2, or griffin-lim; empty: the run's own."""
    latent_spread: float = 0.0
    """Under 1 more typical sounds, over 1 more different ones; 0: the run's own latent_spread."""
    device: str = "auto"
    """auto, cuda, cuda:1, cpu."""


def evaluate(options: Options) -> dict:
    """Score a run, write its scores.json and page; returns the card. Raises UserError."""
    start, run_dir = time.perf_counter(), Path(options.run).resolve()  # "." has no name
    cfg, classes, generator = generate.load_run(run_dir, options.weights)
    names = ("data_dir", "holdout_dir", "vocoder", "device", "latent_spread")
    given = {name: getattr(options, name) for name in names}
    cfg = dataclasses.replace(
        cfg,
        **{name: value for name, value in given.items() if value},
        score_clips=options.count or cfg.score_clips,
        output_dir=str(run_dir.parent),
        run_name=run_dir.name,
    )
    config.check(cfg)
    device = runs.pick_device(cfg)
    clips = _real_sounds(cfg, classes)
    split = dataset.split(cfg, clips, known=True)
    print(split.said, flush=True)
    vocoder, note = audio.load_vocoder(cfg, device)
    if note:
        print(note, flush=True)
    yardstick = scores.make_yardstick(cfg, clips, split, vocoder, device)
    card = desk.score(cfg, models.place(generator, device), vocoder, yardstick)
    card["seconds"] = time.perf_counter() - start
    trained = generate.trained(run_dir, options.weights)
    scores.write_card(cfg, trained["epoch"], trained["step"], options.weights, card)
    page.write_pages(run_dir)
    return card


def _real_sounds(cfg: Config, classes: list[str]) -> dataset.Clips:
    found = dataset.find_clips(cfg)
    if not found.files:
        raise UserError(
            f"The real sounds are not in {cfg.data_dir} any more: say where they are (--data-dir)."
        )
    clips = dataset.load(cfg, found)
    if cfg.conditional and clips.classes != classes:
        raise UserError(
            f"{cfg.data_dir} holds the classes {', '.join(clips.classes)}, and {cfg.run_dir} was "
            f"trained on {', '.join(classes)}: name the folder of its sounds (--data-dir)."
        )
    return clips


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with runs.friendly() as outcome:
        options = tyro.cli(Options, args=argv, description=__doc__)
        with runs.explain_memory("generate fewer sounds with --count"):
            card = evaluate(options)
        print(scores.table(card))
        print(f"Written to {Path(options.run) / 'scores.json'}")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
