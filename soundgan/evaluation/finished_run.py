"""Scores of a run that was trained before."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from torch import nn

from soundgan import dataset, models, tensor_files
from soundgan.audio import load_vocoder
from soundgan.dataset import splitting
from soundgan.errors import UserError
from soundgan.evaluation.evaluator import check_packages, make_evaluator
from soundgan.evaluation.scores import score, write_scores
from soundgan.models.loading import trained
from soundgan.settings import Config
from soundgan.training.devices import pick_device


def score_run(
    cfg: Config, classes: list[str], generator: nn.Module, weights: str, fetch: bool
) -> dict:
    """Score a trained generator against its real sounds and write the run's scores.json.

    `classes`: those it was trained on; `weights`: last or best; `fetch`: whether the vocoder may be
    downloaded. Returns the scores. Raises UserError where the real sounds are not there, are not
    those of the run, or where no one knows any more which of them the run never saw.
    """
    start = time.perf_counter()
    device = pick_device(cfg)
    clips = _real_sounds(cfg, classes)
    check_packages(cfg, len(clips.classes))
    saved = None if splitting.is_whole(cfg.run_dir) else _saved_list(cfg.run_dir)
    one_is_enough = replace(cfg, batch_size=1)  # nothing is trained
    split = dataset.split(one_is_enough, clips, known=True, saved=saved)
    print(split.said, flush=True)
    vocoder, note = load_vocoder(cfg, device, fetch)
    if note:
        print(note, flush=True)
    evaluator = make_evaluator(cfg, clips, split, vocoder, device)
    scores = score(cfg, models.place(generator, device), vocoder, evaluator)
    scores["seconds"] = time.perf_counter() - start
    about = trained(cfg.run_dir, weights)
    write_scores(cfg, about["epoch"], about["step"], weights, scores)
    return scores


def _saved_list(run_dir: Path) -> list | None:
    """The clips that a run held out, as its newest whole checkpoint has them."""
    for name in ("last.pt", "previous.pt", "best.pt"):
        with suppress(OSError, tensor_files.Damaged):
            state = tensor_files.read(run_dir / "checkpoints" / name)
            if isinstance(state, dict) and state.get("held_out") is not None:
                return state["held_out"]
    return None


def _real_sounds(cfg: Config, classes: list[str]) -> dataset.Clips:
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    if cfg.conditional and clips.classes != classes:
        raise UserError(
            f"{cfg.data_dir} holds the classes {', '.join(clips.classes)}, and {cfg.run_dir} was "
            f"trained on {', '.join(classes)}: name the folder of its sounds (--data-dir)."
        )
    return clips
