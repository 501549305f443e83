"""The scores of a run over its epochs: scores.csv, scores.json, and the weights of the best epoch.

They are always of the same latents, and drawn with random states of their own: to score changes
nothing.
"""

from __future__ import annotations

import math
import time

import torch
from torch import nn
from tqdm.auto import tqdm

from soundgan.audio.vocoders import Vocoder
from soundgan.dataset import Clips, Split
from soundgan.evaluation import scores
from soundgan.evaluation.evaluator import Evaluator, make_evaluator
from soundgan.files import write_bytes
from soundgan.settings import Config
from soundgan.training.log import Log
from soundgan.training.tensorboard import Events


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
        """scores.csv, of which the rows after `epoch` are dropped."""
        return Log(cfg.run_dir / "scores.csv", ("epoch", *scores.SCORES), epoch, events)

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
        others = [row["kernel"] for row in log.rows]
        if not others or made["kernel"] < min(others):
            folder = cfg.run_dir / "checkpoints"
            write_bytes(folder / "best.pt", (folder / "last.pt").read_bytes())
            write_bytes(cfg.run_dir / "best.safetensors", weights)
        row = {k: math.nan if v is None else v for k, v in made.items()}
        log.add({"epoch": epoch} | row)
        best = min(log.rows, key=lambda row: row["kernel"])
        content["best"] = {k: best[k] for k in ("epoch", "kernel")}
        content["seconds"] = time.perf_counter() - start
        scores.write_scores(cfg, epoch, step, "last", content)
        log.write()
        tqdm.write(scores.in_short(epoch, content))
