"""The scores of a run over its epochs: scores.csv, scores.json, and the weights of the best epoch.

They are always of the same latents, and drawn with random states of their own: to score changes
nothing.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from soundgan import tensor_files
from soundgan.audio.vocoders import Vocoder
from soundgan.dataset import Clips, Split
from soundgan.evaluation import scores
from soundgan.evaluation.evaluator import Evaluator, make_evaluator
from soundgan.files import read_bytes, set_aside, write_bytes
from soundgan.models.loading import packed, unpacked
from soundgan.settings import Config
from soundgan.training.log import Log, misfit_of_log, packed_rows
from soundgan.training.tensorboard import Events

KEPT = "scores.pt"  # the rows of scores.csv, among the checkpoints


class ScoreLog:
    """Scores the generator of a run and keeps what came of it."""

    def __init__(
        self,
        cfg: Config,
        clips: Clips,
        split: Split,
        vocoder: Vocoder,
        device: torch.device,
        events: Events | None = None,
    ) -> None:
        self.cfg, self.vocoder, self.events = cfg, vocoder, events
        self._real = (clips, split, vocoder, device)
        self._evaluator: Evaluator | None = None

    @staticmethod
    def open_log(cfg: Config, epoch: int, events: Events | None = None) -> Log:
        """scores.csv, of which the rows after `epoch` are dropped.

        Its rows stand in `checkpoints/scores.pt`, too, with a checksum: they decide.
        """
        kept, saved = cfg.run_dir / "checkpoints" / KEPT, None
        try:
            saved = tensor_files.read(kept)
            if reason := misfit_of_log(saved):
                raise tensor_files.Damaged(reason)
        except FileNotFoundError:
            pass
        except tensor_files.Damaged as reason:
            print(f"{kept} is damaged ({reason}): scores.csv alone is gone by.", flush=True)
            saved = None
        columns = ("epoch", *scores.SCORES)
        return Log(cfg.run_dir / "scores.csv", columns, epoch, events, saved=saved)

    @staticmethod
    def keep_rows(cfg: Config, log: Log) -> None:
        """Write the rows of scores.csv to `checkpoints/scores.pt`; none: only where it is there."""
        path = cfg.run_dir / "checkpoints" / KEPT
        if log.rows or os.path.lexists(path):
            tensor_files.write(path, packed_rows(log.rows, log.columns))

    def write(self, generator: nn.Module, epoch: int, step: int, weights: bytes) -> None:
        """Score a generator; keep its state as the best if its kernel distance is the least.

        `weights`: the content of its generator.safetensors. Its state is the last checkpoint: that
        was written just before, and none passes pending work. The row comes last: where it is, all
        of this epoch's scores are.
        """
        cfg, start = self.cfg, time.perf_counter()
        if self._evaluator is None:  # minutes on a CPU: only when it is wanted
            self._evaluator = make_evaluator(cfg, *self._real)
        content = scores.score(cfg, generator, self.vocoder, self._evaluator)
        made = content["rows"][scores.GENERATED]
        log = self.open_log(cfg, epoch, self.events)
        keep_best(cfg.run_dir, log, epoch, made["kernel"], weights)
        log.add({"epoch": epoch} | {k: math.nan if v is None else v for k, v in made.items()})
        if best := best_of(cfg.run_dir, log):
            content["best"] = best
        content["seconds"] = time.perf_counter() - start
        scores.write_scores(cfg, epoch, step, "last", content)
        log.write()
        self.keep_rows(cfg, log)
        tqdm.write(scores.in_short(epoch, content))


def keep_best(run_dir: Path, log: Log, epoch: int, kernel: float | None, weights: bytes) -> None:
    """Keep the last checkpoint and its `weights` as the best where none has a lesser distance.

    The history is scores.csv and what best.safetensors says of itself, so that the best stays
    where one of them is lost. Where neither says how good the best is, it is set aside. A `kernel`
    that is no number (there were too few clips to measure) is never better than one that is.
    """
    if kernel is None or not math.isfinite(kernel):
        return
    best = best_of(run_dir, log)
    if best and kernel >= best["kernel"]:
        return
    checkpoints = run_dir / "checkpoints"
    if not best:
        for path in (checkpoints / "best.pt", run_dir / "best.safetensors"):
            if os.path.lexists(path):
                tqdm.write(f"How good {path} is, nothing says: it is kept as {set_aside(path)}.")
    write_bytes(checkpoints / "best.pt", read_bytes(checkpoints / "last.pt"))
    state, about = unpacked(weights)
    about |= {"epoch": epoch, "kernel": float(f"{kernel:.6g}")}  # as the log has it
    write_bytes(run_dir / "best.safetensors", packed(state, about))


def best_of(run_dir: Path, log: Log) -> dict | None:
    """Epoch and kernel distance of the least one known, or None."""
    known = [{k: row[k] for k in ("epoch", "kernel")} for row in log.rows]
    with suppress(OSError, ValueError, KeyError):  # none yet, damaged, or an earlier version's
        about = unpacked(read_bytes(run_dir / "best.safetensors"))[1]
        known.append({"epoch": int(about["epoch"]), "kernel": float(about["kernel"])})
    known = [row for row in known if math.isfinite(row["kernel"])]
    return min(known, key=lambda row: row["kernel"], default=None)
