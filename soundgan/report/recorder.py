"""What training writes: its log, its checkpoints, and snapshots of the generator for the reporter.

Training submits a `Snapshot` (weights, not the network itself) and a `Reporter` makes of it what is
due. On a CPU it works at once and training waits, since both would fight for the same cores
(`InProcess`); with CUDA it works in a process of its own while training goes on (`WorkerProcess`).

One rule makes that safe: no checkpoint is written while work of an earlier epoch is not done. So a
run that is killed at any moment continues from where everything before stands on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from soundgan import run_folder
from soundgan.audio import vocoders
from soundgan.console import say
from soundgan.dataset import Clips, Split
from soundgan.errors import Interrupted, UserError
from soundgan.evaluation.evaluator import check_packages
from soundgan.models.loading import packed
from soundgan.report import messages, process
from soundgan.report.pace import SAMPLES, SCORES, Pace
from soundgan.report.process import InProcess, WorkerProcess
from soundgan.report.reporter import Reporter, Snapshot
from soundgan.report.samples import Samples
from soundgan.report.score_log import ScoreLog
from soundgan.settings import Config
from soundgan.training import checkpoints
from soundgan.training.log import Log, packed_rows
from soundgan.training.signals import StopSignal
from soundgan.training.tensorboard import Events

CHECKPOINT_SECONDS = 10.0  # s between two checkpoints, at least (epochs may be shorter)


def weights_file(cfg: Config, generator: nn.Module, epoch: int, step: int) -> bytes:
    """The content of generator.safetensors: weights for use, beside config.json."""
    weights = {k: v.detach().cpu().contiguous() for k, v in generator.state_dict().items()}
    return packed(weights, {"recipe": cfg.recipe, "epoch": epoch, "step": step})


class Recorder:
    """What training uses: the log, checkpoints when they are due, and snapshots for the reporter.

    As a context: on leaving it, the log is written, pending work is finished (after an error that
    is a fault, or a second signal, given up), and the worker process is ended.
    """

    def __init__(
        self,
        cfg: Config,
        executor: InProcess | WorkerProcess,
        log: Log,
        scored: set[int],
        stop: StopSignal,
        pace: Pace,
    ) -> None:
        """`scored`: epochs that have their scores."""
        self.cfg, self.log, self.stop, self.pace = cfg, log, stop, pace
        self._executor, self._scored = executor, scored
        self._said = False  # that scores are put off
        self._submitted = (0, 0)  # epoch and step of what was submitted last
        self._logged = time.monotonic()
        self._due = False  # whether a checkpoint is due and was put off
        self._saved = time.monotonic() - CHECKPOINT_SECONDS  # the first one need not wait

    @classmethod
    def open(
        cls,
        cfg: Config,
        classes: list[str],
        clips: Clips,
        split: Split,
        device: torch.device,
        epoch: int,
        columns: Sequence[str],
        same_files: bool,
        stop: StopSignal,
        changed: Mapping[str, object],
        state: Mapping,
    ) -> Recorder:
        """Open the logs of a run after `epoch` and start a reporter, in this process or another.

        `columns`: of the log. `state`: of the checkpoint that the run goes on from, if there is
        one. `same_files`, `changed`: see `Reporter`. Raises UserError where a package lacks or a
        real clip has gone, OSError.
        """
        check_scoring(cfg, clips)
        events = Events(cfg.run_dir / "tensorboard", epoch) if cfg.tensorboard else None
        rows = state.get("log")
        log = Log(cfg.run_dir / "log.csv", columns, epoch, events, every=True, saved=rows)
        trained = [row.get("seconds", 0.0) for row in log.rows]
        pace = Pace.restore(cfg, epoch, trained, state.get("pace"))
        if state:
            pace.again = run_folder.epochs_aside(cfg.run_dir, epoch)
        scores = ScoreLog.open_log(cfg, epoch)
        ScoreLog.keep_rows(cfg, scores)
        scored = {row["epoch"] for row in scores.rows}
        there = {SAMPLES: Samples.path(cfg, epoch).is_dir(), SCORES: epoch in scored}
        # A checkpoint within an epoch was written after these were made, and has their costs.
        if not state.get("step_in_epoch"):
            for part in (name for name, made in there.items() if made and name in pace.parts):
                pace.add_unknown(part)
        rest = (epoch, same_files, changed)
        apart = cfg.background == "on" or (cfg.background == "auto" and device.type == "cuda")
        if apart and epoch < cfg.epochs:  # without training there is nothing to hold up
            where = (clips.root, clips.fingerprint)
            arguments = (cfg, classes, where, split, str(device), *rest)
            advice = f"{less_memory(cfg)}, or train with --background off, in one process"
            executor = WorkerProcess(SCORES, advice, Reporter.in_worker, *arguments)
        else:
            executor = InProcess(SCORES, Reporter, cfg, classes, clips, split, device, *rest)
        return cls(cfg, executor, log, scored, stop, pace)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.log.write()
            if kind is None or issubclass(kind, UserError):
                self.wait()
        except Exception as error:
            if kind is None:
                raise
            say(f"Besides: {error}")  # the first reason is the one to go by
        finally:
            self._executor.end()

    def add(self, row: Mapping[str, float]) -> None:
        """One epoch's row of the log, kept in memory for CHECKPOINT_SECONDS at most."""
        self.log.add(row)
        self.pace.add_epoch(self.log.rows[-1].get("seconds", 0.0))
        if time.monotonic() - self._logged >= CHECKPOINT_SECONDS:
            self._write_log()
        self._executor.poll()
        self._note_costs()

    def _note_costs(self) -> None:
        for part, seconds in self._executor.take_costs():
            self.pace.add_cost(part, seconds)

    def _write_log(self) -> None:
        self.log.write()
        self._logged = time.monotonic()

    def missing(self, epoch: int) -> list[str]:
        """What is due after an epoch and does not stand there yet: SAMPLES, SCORES."""
        due = self.pace.due(epoch, busy=bool(self._executor.pending))
        if self.pace.is_put_off(SCORES) and not self._said:
            self._said = True
            process.show("stdout", messages.scores_put_off(self.pace))
        if SAMPLES in due and Samples.path(self.cfg, epoch).is_dir():
            due.remove(SAMPLES)
        if SCORES in due and epoch in self._scored:
            due.remove(SCORES)
        return due

    def checkpoint_needed(self, parts: Sequence[str]) -> bool:
        """Whether a checkpoint must be written before these parts are made.

        Scores may find it to be the best one. With `auto`, only a checkpoint says what was due: a
        run that is killed while it is made must not decide again.
        """
        return SCORES in parts or (SAMPLES in parts and self.cfg.sample_every == "auto")

    def checkpoint_due(self, epoch: int) -> bool:
        """Whether a regular checkpoint is to be written after this epoch.

        One is due every `checkpoint_every` epochs. It is put off until CHECKPOINT_SECONDS after the
        last one, and while work is pending (which it must not pass) to six times that.
        """
        self._due = self._due or epoch % self.cfg.checkpoint_every == 0
        since = time.monotonic() - self._saved
        enough = CHECKPOINT_SECONDS * (6 if self._executor.pending else 1)
        return self._due and since >= enough

    def save_checkpoint(self, state: dict) -> None:
        """Write a checkpoint, after all that goes before it.

        The log goes first: on continuing, a row too many is dropped, but none may lack.
        """
        self.wait()
        self._write_log()
        rows = packed_rows(self.log.rows, self.log.columns)
        own = {"log": rows, "pace": self.pace.state()}
        checkpoints.save_checkpoint(self.cfg.run_dir, state | own)
        self._due, self._saved = False, time.monotonic()

    def submit(self, snapshot: Snapshot, parts: Sequence[str]) -> None:
        """Have these parts made of a snapshot, after what is pending. Raises Interrupted.

        Where `checkpoint_needed`, a checkpoint of the same epoch must have been written.
        """
        self.wait()
        self._write_log()
        self._submitted = snapshot.epoch, snapshot.step
        now = [part for part in parts if not (part == SCORES and self.stop.name)]
        if SCORES in now and SCORES in self.pace.last:
            process.show("stdout", messages.scoring(snapshot.epoch, self.pace.last[SCORES]))
        done = not now or self._executor.submit(now, snapshot, self.stop)
        if len(now) < len(parts) or not done:
            self.wait()
            raise interrupted(self.cfg, self.stop.name, snapshot.step)

    def wait(self) -> None:
        """Until nothing is pending. Raises what went wrong with it, or Interrupted."""
        done = self._executor.wait(self.stop)
        self._note_costs()
        if not done:
            epoch, step = self._submitted
            raise Interrupted(
                f"{self.stop.name}: the scores of epoch {epoch} were not done "
                f"{process.STOP_PATIENCE:g} s later (STOP_PATIENCE in soundgan/report/process.py) "
                f"and are given up. {self.cfg.run_dir} holds epoch {epoch}, step {step}, just "
                "before them; the same command continues there."
            )


def interrupted(cfg: Config, signal: str, step: int) -> Interrupted:
    """What ends a run that a signal stopped after it was saved."""
    return Interrupted(
        f"{signal} after step {step}: saved in {cfg.run_dir}; the same command continues."
    )


def check_scoring(cfg: Config, clips: Clips) -> None:
    """Raise UserError where the run is to be scored, and a package that this needs lacks."""
    if cfg.score_every:
        check_packages(cfg, len(clips.classes), "train without scores (--score-every 0)")


def less_memory(cfg: Config) -> str:
    """What to change where memory is short."""
    return (
        f"lower batch_size (now {cfg.batch_size}: --batch-size {max(1, cfg.batch_size // 2)}, with "
        "which this run goes on) or, if it came while sounds were made, VOCODER_BATCH (now "
        f"{vocoders.VOCODER_BATCH}) in soundgan/audio/vocoders.py"
    )
