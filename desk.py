"""What a run is written with: its sets of sounds, scores and pages, its log, and who makes them.

Training hands in a `Snapshot` (weights, not the network itself) and a `Clerk` makes of it what is
due. On a CPU it works at once and training waits, since both would fight for the same cores
(`Inline`); with CUDA it works in a process of its own while training goes on (`Background`). Both
leave the same files, byte for byte.

One rule makes that safe: no checkpoint is written while work of an earlier epoch is not done. So a
run that is killed at any moment continues from where everything before stands on the disk.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from tqdm.auto import tqdm

import audio
import config
import dataset
import models
import page
import report
import runs
import scores
from background import Background, Inline
from config import Config, UserError


class Interrupted(UserError):
    """Stopped by a signal, after saving."""

    heading = "Interrupted"
    exit_code = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again


# ---- what is handed in --------------------------------------------------------------------------

SET, SCORES = "samples", "scores"  # what may be due after an epoch, made in this order


@dataclass(frozen=True)
class Snapshot:
    """A generator after an epoch, apart from the one that is trained on."""

    epoch: int
    step: int
    weights: bytes  # what generator.safetensors holds


def weights_file(cfg: Config, generator: nn.Module, epoch: int, step: int) -> bytes:
    """The content of generator.safetensors: weights for use, beside config.json."""
    weights = {k: v.detach().cpu().contiguous() for k, v in generator.state_dict().items()}
    # One entry: safetensors writes several in an order of its own, and equal runs would differ.
    about = {"recipe": cfg.recipe, "epoch": epoch, "step": step}
    return to_safetensors(weights, {"trained": json.dumps(about)})


# ---- sounds of a generator ----------------------------------------------------------------------


def samples_of(classes: Sequence[str]) -> list[str]:
    """Names of the sounds of one set: the classes, or numbers where there are none."""
    return list(classes) or [f"sample_{k}" for k in range(config.UNCONDITIONAL_SAMPLES)]


def draw_latents(cfg: Config, count: int, generator: torch.Generator) -> Tensor:
    """`z (count, latent_dim)` on the CPU, row by row: a higher count keeps the first ones.

    They spread `latent_spread` times as far as those of training.
    """
    draw = torch.rand if cfg.latent == "uniform" else torch.randn
    z = torch.stack([draw(cfg.latent_dim, generator=generator) for _ in range(count)])
    return cfg.latent_spread * (2 * z - 1 if cfg.latent == "uniform" else z)


@torch.no_grad()
def generate(generator: nn.Module, z: Tensor, labels: Tensor) -> Tensor:
    """Clips `(B, 1, *S)` on the CPU, in evaluation mode; the mode is restored after.

    `z (B, latent_dim)`, or `(B, P, latent_dim)` for sounds of P times the length: the smallest maps
    of P latents are joined along time, and the rungs, which are convolutions, blend them over the
    few frames that their kernels reach across a seam.
    """
    training = generator.training
    generator.eval()
    parts = z[:, None] if z.dim() == 2 else z  # (B, P, latent_dim)
    maps = [generator.fold(part, labels) for part in parts.unbind(1)]
    fake = generator.unfold(torch.cat(maps, dim=-1)).float().cpu()
    generator.train(training)
    return fake


# ---- samples ------------------------------------------------------------------------------------
# The same latents every time, so that what changes from set to set is the model. A set is made
# beside its place and renamed into it: a folder that exists is complete.


class Samples:
    """Writes the sets of sounds and pictures below `samples/`."""

    def __init__(
        self,
        cfg: Config,
        classes: Sequence[str],
        clips: dataset.Clips,
        rows: np.ndarray,
        vocoder: audio.Vocoder,
    ) -> None:
        """`rows`: indices of the clips that are trained on; the real ones shown are of these."""
        self.cfg, self.vocoder = cfg, vocoder
        self.names = samples_of(classes)
        if cfg.conditional:
            labels = np.array(clips.labels)[rows]
            real = [rows[np.argmax(labels == k)] for k in range(len(self.names))]
        else:
            real = [rows[k * len(rows) // len(self.names)] for k in range(len(self.names))]
        self.recordings = dataset.recordings(clips, real)
        self.real = torch.from_numpy(np.array(clips.data[real]))  # (K, 1, *S)
        generator = torch.Generator().manual_seed(cfg.seed)
        self.z = draw_latents(cfg, len(self.names), generator)  # (K, latent_dim)

    @staticmethod
    def path(cfg: Config, epoch: int) -> Path:
        return cfg.run_dir / "samples" / f"epoch_{epoch:04d}"

    def write_real(self) -> None:
        """One real clip a class, and the same through the vocoder: the best that it can do."""
        folder = self.cfg.run_dir / "samples"
        panels = [{f"{name}: real": x[0].numpy()} for name, x in zip(self.names, self.real)]
        self._write(folder / "real", self.vocoder(self.real), panels)
        clips = torch.stack([audio.read_clip(self.cfg, r.path, r.number) for r in self.recordings])
        rest = self.cfg.wav_samples - clips.shape[1]  # as long as what comes of a vocoder
        self._write(folder / "original", nn.functional.pad(clips, (0, rest)), [])

    def write(self, generator: nn.Module, epoch: int) -> None:
        """What a generator makes, each picture beside the real clip on one colour scale."""
        device = next(generator.parameters()).device
        labels = torch.arange(len(self.names), device=device)
        fake = generate(generator, self.z.to(device), labels)
        panels = [
            {f"{name}: real": x[0].numpy(), f"generated, epoch {epoch}": y[0].numpy()}
            for name, x, y in zip(self.names, self.real, fake)
        ]
        self._write(self.path(self.cfg, epoch), self.vocoder(fake), panels)

    def _write(self, folder: Path, waves: Tensor, panels: list[dict[str, np.ndarray]]) -> None:
        """Write `waves (K, L)` and their pictures, if there are any."""
        with runs.whole_folder(folder) as inside:
            for name, wave in zip(self.names, waves):
                audio.write_wav(inside / f"{name}.wav", wave, self.cfg.sample_rate)
            if panels:
                report.draw_set([inside / f"{n}.png" for n in self.names], panels, self.cfg)


# ---- scores -------------------------------------------------------------------------------------
# Always of the same latents, and always with random states of their own: scoring changes nothing.


def score(
    cfg: Config, generator: nn.Module, vocoder: audio.Vocoder, yardstick: scores.Yardstick
) -> dict:
    """Generate, vocode and measure; returns the content of scores.json but for the epoch."""
    device = next(generator.parameters()).device
    labels = yardstick.labels  # (N,)
    z = draw_latents(cfg, len(labels), torch.Generator().manual_seed(cfg.seed + 1))
    parts = zip(z.split(config.VOCODER_BATCH), labels.split(config.VOCODER_BATCH))
    waves = [vocoder(generate(generator, a.to(device), b.to(device))) for a, b in parts]
    return yardstick.card(torch.cat(waves))


class Scores:
    """Scores a run: scores.csv over epochs, scores.json, and the weights of the best epoch."""

    def __init__(
        self,
        cfg: Config,
        clips: dataset.Clips,
        split: dataset.Split,
        vocoder: audio.Vocoder,
        device: torch.device,
        events: runs.Events | None = None,
    ) -> None:
        self.cfg, self.vocoder, self.events = cfg, vocoder, events
        self._real = (clips, split, vocoder, device)
        self._yardstick: scores.Yardstick | None = None

    @staticmethod
    def open_log(cfg: Config, epoch: int, events: runs.Events | None = None) -> runs.Log:
        """scores.csv, of which the rows after `epoch` are dropped."""
        return runs.Log(cfg.run_dir / "scores.csv", ("epoch", *scores.SCORES), epoch, events)

    def write(self, generator: nn.Module, snapshot: Snapshot) -> None:
        """Score a generator; keep its state as the best if its kernel distance is the least.

        That state is the last checkpoint: it was written just before, and none passes work in hand.
        The row comes last: where it is, all of this epoch's scores are.
        """
        cfg, start = self.cfg, time.perf_counter()
        if self._yardstick is None:  # minutes on a CPU: only when it is wanted
            self._yardstick = scores.make_yardstick(cfg, *self._real)
        card = score(cfg, generator, self.vocoder, self._yardstick)
        made = card["rows"][scores.GENERATED]
        log = self.open_log(cfg, snapshot.epoch, self.events)
        others = [row["kernel"] for row in log.rows]
        if not others or made["kernel"] < min(others):
            folder = cfg.run_dir / "checkpoints"
            runs.write_bytes(folder / "best.pt", (folder / "last.pt").read_bytes())
            runs.write_bytes(cfg.run_dir / "best.safetensors", snapshot.weights)
        row = {k: math.nan if v is None else v for k, v in made.items()}
        log.add({"epoch": snapshot.epoch} | row)
        best = min(log.rows, key=lambda row: row["kernel"])
        card["best"] = {k: best[k] for k in ("epoch", "kernel")}
        card["seconds"] = time.perf_counter() - start
        scores.write_card(cfg, snapshot.epoch, snapshot.step, "last", card)
        log.write()
        tqdm.write(scores.in_short(snapshot.epoch, card))


# ---- the clerk ----------------------------------------------------------------------------------


class Clerk:
    """Makes what is due of snapshots; knows the run's folder and nothing of its training."""

    def __init__(
        self,
        cfg: Config,
        classes: Sequence[str],
        clips: dataset.Clips,
        split: dataset.Split,
        device: torch.device,
        epoch: int,
        same_files: bool,
    ) -> None:
        """Load the vocoder and write what does not change: real clips, constants.

        `epoch`: the last finished one. `same_files`: whether samples/real, if it is there, was made
        of these clips.
        """
        self.cfg = cfg
        vocoder, note = audio.load_vocoder(cfg, device)
        if note:
            print(note, flush=True)
        with torch.random.fork_rng(devices=[]):  # initial weights, though replaced, are drawn
            generator, _ = models.build(cfg, len(classes))
        self.generator = models.place(generator.eval().requires_grad_(False), device)
        # In a folder of its own: TensorBoard reads one process's file after the other's.
        folder = cfg.run_dir / "tensorboard" / "samples"
        self.events = runs.Events(folder, epoch) if cfg.tensorboard else None
        self.samples = Samples(cfg, classes, clips, split.training, vocoder)
        self.scores = Scores(cfg, clips, split, vocoder, device, self.events)
        if not (same_files and self._has_real()):
            self.samples.write_real()
        runs.write_config(cfg, classes, vocoder_used=vocoder.name, device=str(device))
        page.write_pages(cfg.run_dir)  # it may lag behind what a killed run left

    @classmethod
    def elsewhere(
        cls,
        cfg: Config,
        classes: Sequence[str],
        where: tuple[str, str],
        split: dataset.Split,
        device: str,
        *rest: object,
    ) -> Clerk:
        """In another process, which opens the clips itself: `where` are their root and fingerprint.

        (A memory map would be sent as all that it maps.)
        """
        picked = runs.pick_device(replace(cfg, device=device))
        return cls(cfg, classes, dataset.open_clips(cfg, *where), split, picked, *rest)

    def do(self, part: str, snapshot: Snapshot) -> None:
        """Make the SET or the SCORES of a snapshot, and the page that shows them."""
        self.generator.load_state_dict(from_safetensors(snapshot.weights))
        if part == SET:
            self._make_set(snapshot)
        else:
            self.scores.write(self.generator, snapshot)
        page.write_pages(self.cfg.run_dir)

    def _make_set(self, snapshot: Snapshot) -> None:
        """What a listener gets every few epochs: weights for use, curves, sounds and pictures."""
        folder, epoch = self.cfg.run_dir, snapshot.epoch
        runs.write_bytes(folder / "generator.safetensors", snapshot.weights)
        if rows := runs.read_log(folder / "log.csv", epoch):
            report.draw_curves(folder / "losses.png", rows)
        self.samples.write(self.generator, epoch)
        if self.events:
            self.events.sounds(self.samples.path(self.cfg, epoch), epoch)

    def _has_real(self) -> bool:
        """Whether samples/real stands there and was made by this vocoder."""
        try:
            used = runs.read_config(self.cfg.run_dir).get("vocoder_used")
        except UserError:
            return False
        return used == self.samples.vocoder.name and (self.cfg.run_dir / "samples/real").is_dir()


# ---- the desk -----------------------------------------------------------------------------------


class Desk:
    """What training uses: the log, and work handed in to a clerk, one piece at a time.

    As a context: on leaving it, the log is written, work in hand is finished (after an error that
    is a fault, or a second signal, given up), and the background process is ended.
    """

    def __init__(
        self,
        cfg: Config,
        way: Inline | Background,
        log: runs.Log,
        scored: set[int],
        stop: runs.StopSignal,
    ) -> None:
        """`scored`: epochs that have their scores."""
        self.cfg, self.log, self.stop = cfg, log, stop
        self._way, self._scored = way, scored
        self._handed = (0, 0)  # epoch and step of what was handed in last
        self._logged = time.monotonic()
        self._owed = False  # whether a checkpoint is due and was put off
        self._saved = time.monotonic() - config.CHECKPOINT_SECONDS  # the first one need not wait

    @classmethod
    def open(
        cls,
        cfg: Config,
        classes: list[str],
        clips: dataset.Clips,
        split: dataset.Split,
        device: torch.device,
        epoch: int,
        columns: Sequence[str],
        same_files: bool,
        stop: runs.StopSignal,
    ) -> Desk:
        """Open the logs of a run after `epoch` and get a clerk, here or in the background.

        Raises UserError where a package lacks or a real clip has gone, OSError.
        """
        events = runs.Events(cfg.run_dir / "tensorboard", epoch) if cfg.tensorboard else None
        log = runs.Log(cfg.run_dir / "log.csv", columns, epoch, events)
        scored = {row["epoch"] for row in Scores.open_log(cfg, epoch).rows}
        apart = cfg.background == "on" or (cfg.background == "auto" and device.type == "cuda")
        if apart and epoch < cfg.epochs:  # without training there is nothing to hold up
            where = (clips.root, clips.fingerprint)
            arguments = (cfg, classes, where, split, str(device), epoch, same_files)
            advice = f"{less_memory(cfg)}, or train with --background off, in one process"
            way = Background(SCORES, advice, Clerk.elsewhere, *arguments)
        else:
            way = Inline(SCORES, Clerk, cfg, classes, clips, split, device, epoch, same_files)
        return cls(cfg, way, log, scored, stop)

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.log.write()
            if kind is None or issubclass(kind, UserError):
                self.wait()
        except Exception as error:
            if kind is None:
                raise
            runs.say(f"Besides: {error}")  # the first reason is the one to go by
        finally:
            self._way.end()

    def add(self, row: Mapping[str, float]) -> None:
        """One epoch's row of the log, kept in memory for CHECKPOINT_SECONDS at most."""
        self.log.add(row)
        if time.monotonic() - self._logged >= config.CHECKPOINT_SECONDS:
            self._write_log()
        self._way.look()

    def _write_log(self) -> None:
        self.log.write()
        self._logged = time.monotonic()

    def lacking(self, epoch: int) -> list[str]:
        """What is due after an epoch and does not stand there yet: SET, SCORES."""
        parts = []
        if self.cfg.is_sampled(epoch) and not Samples.path(self.cfg, epoch).is_dir():
            parts.append(SET)
        if self.cfg.is_scored(epoch) and epoch not in self._scored:
            parts.append(SCORES)
        return parts

    def owes_checkpoint(self, epoch: int) -> bool:
        """Whether a regular checkpoint is to be written after this epoch.

        One is due every `checkpoint_every` epochs. It is put off until CHECKPOINT_SECONDS after the
        last one, and while work is in hand (which it must not pass) to six times that.
        """
        self._owed = self._owed or epoch % self.cfg.checkpoint_every == 0
        since = time.monotonic() - self._saved
        enough = config.CHECKPOINT_SECONDS * (6 if self._way.left else 1)
        return self._owed and since >= enough

    def save_checkpoint(self, state: dict) -> None:
        """Write a checkpoint, after all that goes before it.

        The log goes first: on continuing, a row too many is dropped, but none may lack.
        """
        self.wait()
        self._write_log()
        runs.save_checkpoint(self.cfg.run_dir, state)
        self._owed, self._saved = False, time.monotonic()

    def hand_in(self, snapshot: Snapshot, parts: Sequence[str]) -> None:
        """Have these parts made of a snapshot, after what is in hand. Raises Interrupted.

        Before SCORES, a checkpoint of the same epoch must have been written.
        """
        self.wait()
        self._write_log()
        self._handed = snapshot.epoch, snapshot.step
        now = [part for part in parts if not (part == SCORES and self.stop.name)]
        done = not now or self._way.do(now, snapshot, self.stop)
        if len(now) < len(parts) or not done:
            self.wait()
            raise interrupted(self.cfg, self.stop.name, snapshot.step)

    def wait(self) -> None:
        """Until nothing is in hand. Raises what went wrong with it, or Interrupted."""
        if not self._way.wait(self.stop):
            epoch, step = self._handed
            raise Interrupted(
                f"{self.stop.name}: the scores of epoch {epoch} were not done "
                f"{config.STOP_PATIENCE:g} s later (STOP_PATIENCE in config.py) and are given up. "
                f"{self.cfg.run_dir} holds epoch {epoch}, step {step}, just before them; the "
                "same command continues there."
            )


def interrupted(cfg: Config, name: str, step: int) -> Interrupted:
    return Interrupted(
        f"{name} after step {step}: saved in {cfg.run_dir}; the same command continues."
    )


def less_memory(cfg: Config) -> str:
    """What to change where memory is short."""
    return (
        f"lower batch_size (now {cfg.batch_size}: --batch-size {max(1, cfg.batch_size // 2)}, in a "
        "run of its own with --run-name NAME) or, if it came while sounds were made, VOCODER_BATCH "
        f"(now {config.VOCODER_BATCH}) in config.py"
    )
