"""Makes of a snapshot of the generator what people look at and listen to.

It works from a run's folder and a snapshot's weights alone, so that it can do so in this process or
in another one (`process.py`), and leaves the same files, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load as from_safetensors

from soundgan import models
from soundgan.audio import load_vocoder
from soundgan.dataset import Clips, Split, open_clips, splitting
from soundgan.errors import UserError
from soundgan.files import write_bytes
from soundgan.report import page, plots
from soundgan.report.pace import SAMPLES
from soundgan.report.samples import Samples
from soundgan.report.score_log import ScoreLog
from soundgan.run_folder import clear_old, read_config, write_config
from soundgan.settings import Config
from soundgan.training.devices import pick_device
from soundgan.training.log import read_log
from soundgan.training.tensorboard import Events


@dataclass(frozen=True)
class Snapshot:
    """A generator after an epoch, apart from the one that is trained on."""

    epoch: int
    step: int
    weights: bytes  # what generator.safetensors holds


class Reporter:
    """Makes what is due of snapshots; knows the run's folder and nothing of its training."""

    def __init__(
        self,
        cfg: Config,
        classes: Sequence[str],
        clips: Clips,
        split: Split,
        device: torch.device,
        epoch: int,
        same_files: bool,
        changed: Mapping[str, object],
    ) -> None:
        """Load the vocoder and write what does not change: real clips, constants.

        `epoch`: the last finished one. `same_files`: whether samples/real, if it is there, was made
        of these clips. `changed`: the constants that differ from the recipe's, by their full names.
        """
        self.cfg = cfg
        vocoder, note = load_vocoder(cfg, device)
        if note:
            print(note, flush=True)
        with torch.random.fork_rng(devices=[]):  # initial weights, though replaced, are drawn
            generator, _ = models.build(cfg, len(classes))
        self.generator = models.place(generator.eval().requires_grad_(False), device)
        # In a folder of its own: TensorBoard reads one process's file after the other's.
        folder = cfg.run_dir / "tensorboard" / "samples"
        self.events = Events(folder, epoch) if cfg.tensorboard else None
        self.samples = Samples(cfg, classes, clips, split.training, vocoder)
        self.scores = ScoreLog(cfg, clips, split, vocoder, device, self.events)
        if not (same_files and self._has_real()):
            self.samples.write_real()
        facts = {
            "vocoder_used": vocoder.name,
            "device": str(device),
            "held_out": splitting.summary(split.record),
            "data_root": str(Path(cfg.data_dir).absolute()),
        }
        write_config(cfg, classes, **facts, changed=dict(changed))
        page.write_pages(cfg.run_dir)  # it may lag behind what a killed run left

    @classmethod
    def in_worker(
        cls,
        cfg: Config,
        classes: Sequence[str],
        where: tuple[str, str],
        split: Split,
        device: str,
        *rest: object,
    ) -> Reporter:
        """In another process, which opens the clips itself: `where` are their root and fingerprint.

        (A memory map would be sent as all that it maps.)
        """
        picked = pick_device(replace(cfg, device=device))
        return cls(cfg, classes, open_clips(cfg, *where), split, picked, *rest)

    def do(self, part: str, snapshot: Snapshot) -> None:
        """Make the SAMPLES or the SCORES of a snapshot, and the page that shows them."""
        self.generator.load_state_dict(from_safetensors(snapshot.weights))
        if part == SAMPLES:
            self._make_samples(snapshot)
        else:
            self.scores.write(self.generator, snapshot.epoch, snapshot.step, snapshot.weights)
        page.write_pages(self.cfg.run_dir)

    def _make_samples(self, snapshot: Snapshot) -> None:
        """What a listener gets every few epochs: weights for use, curves, sounds and pictures."""
        folder, epoch = self.cfg.run_dir, snapshot.epoch
        write_bytes(folder / "generator.safetensors", snapshot.weights)
        if rows := read_log(folder / "log.csv", epoch):
            plots.draw_curves(folder / "losses.png", rows)
        self.samples.write(self.generator, epoch)
        clear_old(folder)
        if self.events:
            self.events.sounds(self.samples.path(self.cfg, epoch), epoch)

    def _has_real(self) -> bool:
        """Whether samples/real stands there and was made by this vocoder."""
        try:
            used = read_config(self.cfg.run_dir).get("vocoder_used")
        except UserError:
            return False
        return used == self.samples.vocoder.name and (self.cfg.run_dir / "samples/real").is_dir()
