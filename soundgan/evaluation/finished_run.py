"""Scores of a run that was trained before."""

from __future__ import annotations

import time

from torch import nn

from soundgan import dataset, models
from soundgan.audio import load_vocoder
from soundgan.errors import UserError
from soundgan.evaluation.evaluator import make_evaluator
from soundgan.evaluation.scores import score, write_scores
from soundgan.models.loading import trained
from soundgan.settings import Config
from soundgan.training.devices import pick_device


def score_run(cfg: Config, classes: list[str], generator: nn.Module, weights: str) -> dict:
    """Score a trained generator against its real sounds and write the run's scores.json.

    `classes`: those it was trained on; `weights`: last or best. Returns the scores. Raises
    UserError where the real sounds are not there, or are not those of the run.
    """
    start = time.perf_counter()
    device = pick_device(cfg)
    clips = _real_sounds(cfg, classes)
    split = dataset.split(cfg, clips, known=True)
    print(split.said, flush=True)
    vocoder, note = load_vocoder(cfg, device)
    if note:
        print(note, flush=True)
    evaluator = make_evaluator(cfg, clips, split, vocoder, device)
    scores = score(cfg, models.place(generator, device), vocoder, evaluator)
    scores["seconds"] = time.perf_counter() - start
    about = trained(cfg.run_dir, weights)
    write_scores(cfg, about["epoch"], about["step"], weights, scores)
    return scores


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
