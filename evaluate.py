"""Scores of a trained run.

    python evaluate.py outputs/sn-wgan-gp

Generates sounds, plays them through the run's vocoder, and measures them beside held-out real
sounds and beside the same real sounds through the vocoder. Writes `scores.json` into the run and
prints the table. No network is downloaded; minutes on a CPU. What each figure means stands in
`soundgan/evaluation/metrics.py` and, with its paper, in `distances.py` beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

if __name__ == "__main__":
    from soundgan import startup

    startup.leave_on_interrupt()  # during the imports below, which take seconds

import tyro

from soundgan import config_io, console, run_folder
from soundgan.audio import may_fetch
from soundgan.command_line import expanded_path, imported
from soundgan.errors import UserError
from soundgan.evaluation.finished_run import score_run
from soundgan.evaluation.scores import table
from soundgan.models.loading import load_run
from soundgan.report.page import write_pages
from soundgan.training.devices import explain_memory

MOST_SOUNDS = 1000  # a class: all of them are in memory at once


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
    """Sounds a class to generate, 2 to 1000; 0: as many as the run says (score_clips)."""
    vocoder: str = ""
    """Hub name or folder of a HiFi-GAN or BigVGAN v2, or griffin-lim; empty: the run's own."""
    latent_spread: float = 0.0
    """Under 1 more typical sounds, over 1 more different ones; 0: the run's own latent_spread."""
    device: str = "auto"
    """auto, cuda, cuda:1, cpu."""


def evaluate(options: Options) -> dict:
    """Score a run, write its scores.json and page; returns the scores. Raises UserError."""
    imported("config")  # every kind of part; here, as in train.py

    if options.count and not 2 <= options.count <= MOST_SOUNDS:
        raise UserError(
            f"--count {options.count}: must be from 2 to {MOST_SOUNDS} sounds a class, or 0 for as "
            "many as the run says."
        )
    run_dir = Path(expanded_path(options.run)).resolve()  # "." has no name
    cfg, classes, generator = load_run(run_dir, options.weights)
    given = {
        "data_dir": expanded_path(options.data_dir) or _sounds_of(run_dir, cfg.data_dir),
        "holdout_dir": expanded_path(options.holdout_dir),
        "vocoder": expanded_path(options.vocoder),
        "device": options.device,
        "generator.latent_spread": options.latent_spread,
        "score_clips": options.count,
    }
    changes = {name: value for name, value in given.items() if value}
    here = {"output_dir": str(run_dir.parent), "run_name": run_dir.name}
    cfg = config_io.change(cfg, changes | here)
    cfg.check()
    fetch = bool(options.vocoder) or may_fetch(cfg.vocoder)  # a run's config fetches nothing else
    scores = score_run(cfg, classes, generator, options.weights, fetch)
    write_pages(run_dir)
    return scores


def _sounds_of(run_dir: Path, data_dir: str) -> str:
    """Where the sounds of a run are, if not at `data_dir` as it is seen from here; else ""."""
    return run_folder.sounds_elsewhere(data_dir, run_folder.read_config(run_dir).get("data_root"))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with console.friendly() as outcome:
        options = tyro.cli(Options, args=argv, description=__doc__)
        with explain_memory("generate fewer sounds with --count"):
            scores = evaluate(options)
        print(table(scores))
        print(f"Written to {Path(expanded_path(options.run)) / 'scores.json'}")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
