"""What is written while training goes on: the same files, whatever happens to either process."""

from __future__ import annotations

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import flags, weights

import train
from soundgan import dataset
from soundgan.config_io import change
from soundgan.errors import Diverged, Interrupted, UserError
from soundgan.evaluation import classifier, metrics
from soundgan.files import locked
from soundgan.report import process, recorder
from soundgan.report.pace import SAMPLES, SCORES, Pace
from soundgan.report.process import InProcess, WorkerProcess
from soundgan.report.recorder import Recorder
from soundgan.report.reporter import Reporter, Snapshot
from soundgan.settings import Config
from soundgan.training import checkpoints, objectives
from soundgan.training.checkpoints import find_checkpoint
from soundgan.training.log import Log, read_log
from soundgan.training.run import Run
from soundgan.training.signals import StopSignal

ROOT = Path(__file__).parents[2]
SECONDS = 60  # that nothing here may need


@pytest.fixture
def apart(small: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Four epochs, three sets and two scorings, quick ones, made in a worker process."""
    monkeypatch.setattr(classifier, "STEPS", 20)
    monkeypatch.setattr(classifier, "SEEDS", (0,))
    monkeypatch.setattr(metrics, "BOOTSTRAP", 20)
    return change(small, {"background": "on", "score_every": 2, "score_clips": 4})


def log_without_seconds(cfg: Config) -> list[list[str]]:
    with open(cfg.run_dir / "log.csv", newline="") as file:
        return [row[:2] + row[3:] for row in csv.reader(file)]


def assert_same(cfg: Config, other: Config) -> None:
    """Two runs left the same: sounds, pictures, curves, weights, scores, log, best epoch."""
    a, b = cfg.run_dir, other.run_dir
    kinds = ("*.wav", "*.png", "*.safetensors", "scores.csv")
    files = sorted(p.relative_to(a) for kind in kinds for p in a.rglob(kind))
    assert files == sorted(p.relative_to(b) for kind in kinds for p in b.rglob(kind))
    assert Path("scores.csv") in files
    assert [p for p in files if (a / p).read_bytes() != (b / p).read_bytes()] == []
    assert log_without_seconds(cfg) == log_without_seconds(other)
    for name in ("last.pt", "best.pt"):
        left, right = (torch.load(folder / "checkpoints" / name) for folder in (a, b))
        assert left["step"] == right["step"]
        for network in ("generator", "critic"):
            for key, value in left[network].items():
                assert torch.equal(value, right[network][key])
        assert torch.equal(left["random"]["torch"], right["random"]["torch"])


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal in the middle of the given step."""
    full_step, taken = train.full_step, [0]

    def counted(*arguments: object) -> torch.Tensor:
        taken[0] += 1
        if taken[0] == step:
            signal.raise_signal(signal.SIGTERM)
        return full_step(*arguments)

    monkeypatch.setattr(train, "full_step", counted)


# ---- reporters in the worker process -------------------------------------------------------------
# It finds them by their names in this module.


def _slow_at_samples(*arguments: object) -> Reporter:
    return _slow(0.5, SAMPLES, *arguments)


def _endless_at_scores(*arguments: object) -> Reporter:
    return _slow(SECONDS, SCORES, *arguments)


def _refuses(*arguments: object) -> Reporter:
    raise UserError("no reporter today")


def _slow(seconds: float, slow: str, *arguments: object) -> Reporter:
    reporter = Reporter.in_worker(*arguments)
    do = reporter.do

    def slowly(part: str, snapshot: Snapshot) -> None:
        if part == slow:
            time.sleep(seconds)
        do(part, snapshot)

    reporter.do = slowly
    return reporter


def replace_worker(start: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reporter, "in_worker", start)


# ---- the same files ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_worker_process_leaves_what_work_at_once_leaves(apart: Config, tmp_path: Path) -> None:
    here = change(apart, {"background": "off", "output_dir": str(tmp_path / "here")})
    run, other = train.train(apart), train.train(here)
    assert torch.equal(weights(run.generator), weights(other.generator))
    assert_same(apart, here)
    assert [row["epoch"] for row in read_log(apart.run_dir / "scores.csv", 9)] == [2, 4]


def test_where_work_is_done(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = []
    monkeypatch.setattr(recorder, "WorkerProcess", lambda *_: ways.append("apart"))
    monkeypatch.setattr(recorder, "InProcess", lambda *_: ways.append("at once"))
    split = dataset.Split(np.arange(18), [], "")
    clips = dataset.Clips(None, [], [], [], [], [], [], [], [], "", "")
    for chosen in ("auto", "on", "off"):
        for device in ("cuda", "cpu"):
            cfg = change(small, {"background": chosen})
            for epoch in (0, cfg.epochs):
                there = torch.device(device)
                about = (cfg, [], clips, split, there, epoch, ("epoch",), True, None, {}, {})
                Recorder.open(*about)
    # By device and epoch; where no training is left, there is nothing to hold up.
    once = "at once"
    assert ways == ["apart", once, once, once, "apart", once, "apart", once, once, once, once, once]


def test_a_reporter_leaves_every_random_state_as_it_was(small: Config) -> None:
    run = Run.start(small, ["high", "low", "mid"], torch.device("cpu"))
    clips = dataset.load_clips(small, dataset.find_files(small.data_dir))
    split = dataset.Split(np.arange(18), [], "")
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    reporter = Reporter(small, run.classes, clips, split, run.device, 0, False, {})
    reporter.do(SAMPLES, train.snapshot_of(run))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    assert reporter.generator is not run.generator
    assert torch.equal(weights(reporter.generator), weights(run.generator))


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_whose_reporter_fails_ends_with_the_reason(
    apart: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_worker(_refuses, monkeypatch)
    with pytest.raises(UserError, match="no reporter today"):
        train.train(apart)
    with locked(apart.run_dir):  # and lets go of everything
        pass


# ---- one piece of work, which no checkpoint passes -----------------------------------------------


@pytest.mark.slow
def test_no_checkpoint_passes_work_and_no_work_passes_work(
    apart: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sets that take longer than epochs, and a checkpoint due after each of these."""
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0)
    replace_worker(_slow_at_samples, monkeypatch)
    cfg, folder = change(apart, {"sample_every": 1, "score_every": 0}), apart.run_dir / "samples"
    saved, submit, save = [], WorkerProcess.submit, checkpoints.save_checkpoint

    def watched_submit(self: WorkerProcess, *arguments: object) -> bool:
        assert self.pending == []
        return submit(self, *arguments)

    def watched_save(run_dir: Path, state: dict) -> None:
        sets = [p.name for p in folder.glob("epoch_*")]
        assert len(sets) == state["epoch"] - 1  # this epoch's is submitted after it
        saved.append(state["epoch"])
        save(run_dir, state)

    monkeypatch.setattr(WorkerProcess, "submit", watched_submit)
    monkeypatch.setattr(checkpoints, "save_checkpoint", watched_save)
    train.train(cfg)
    assert saved == [1, 2, 3, 4]
    assert len(list(folder.glob("epoch_*"))) == 4


def test_when_a_checkpoint_is_due(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    executor = InProcess(SCORES, lambda: None)
    log = Log(small.run_dir / "log.csv", ("epoch",), 0)
    with StopSignal() as stop:
        cfg = change(small, {"checkpoint_every": 2})
        made = Recorder(cfg, executor, log, set(), stop, Pace(cfg))
        assert not made.checkpoint_due(1)
        assert made.checkpoint_due(2)  # the first one need not wait
        made.save_checkpoint({})
        now[0] += recorder.CHECKPOINT_SECONDS - 1
        assert not made.checkpoint_due(4)  # too soon after the last
        now[0] += 1
        assert made.checkpoint_due(5)  # put off from epoch 4
        executor.pending = [SCORES]
        assert not made.checkpoint_due(6)
        now[0] += 5 * recorder.CHECKPOINT_SECONDS
        assert made.checkpoint_due(6)  # waits for them now
        executor.pending = []
        made.save_checkpoint({})
        assert not made.checkpoint_due(7)


@pytest.mark.slow
def test_rows_of_the_log_reach_the_disk(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten seconds, and when the numbers diverge; not with every epoch."""
    cfg = change(small, {"epochs": 9, "sample_every": 9, "checkpoint_every": 9})
    written, write = [], Log.write

    def counted(self: Log) -> None:
        before = self.path.stat().st_mtime_ns if self.path.exists() else 0
        write(self)
        if self.path.exists() and self.path.stat().st_mtime_ns != before:
            written.append(len(self.rows))

    monkeypatch.setattr(Log, "write", counted)
    penalty, taken = objectives.gradient_penalty, [0]

    def diverging(*arguments: object) -> torch.Tensor:
        taken[0] += 1
        return penalty(*arguments) * (float("nan") if taken[0] > 5 * 4 * 3 else 1)

    monkeypatch.setattr(objectives, "gradient_penalty", diverging)
    with pytest.raises(Diverged):
        train.train(cfg)
    assert [row[0] for row in log_without_seconds(cfg)] == ["epoch", "1", "2", "3", "4", "5"]
    assert written == [1, 5]  # with the set after epoch 1, and at the end


# ---- stopping ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stopped_run_waits_for_its_set(apart: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_worker(_slow_at_samples, monkeypatch)
    stop_after(6, monkeypatch)  # while the set of epoch 1 is made
    cfg = change(apart, {"score_every": 0})
    with pytest.raises(Interrupted, match="SIGTERM after step 6: saved"):
        train.train(cfg)
    assert find_checkpoint(cfg.run_dir).state["step"] == 6
    sets = cfg.run_dir / "samples"
    assert len(list((sets / "epoch_0001").glob("*.png"))) == 3
    assert list(sets.glob(".*")) == []


@pytest.mark.slow
def test_a_stopped_run_gives_scores_up_and_makes_them_again(
    apart: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = change(apart, {"background": "off", "output_dir": str(tmp_path / "here")})
    train.train(here)
    with monkeypatch.context() as patch:
        replace_worker(_endless_at_scores, patch)
        patch.setattr(process, "STOP_PATIENCE", 0.5)
        stop_after(10, patch)  # in epoch 3, while those of epoch 2 are made
        with pytest.raises(
            Interrupted, match=r"scores of epoch 2 .*STOP_PATIENCE.*epoch 2, step 8, just"
        ) as stopped:
            train.train(apart)
    assert stopped.value.exit_code == 75
    assert find_checkpoint(apart.run_dir).state["step"] == 8
    assert not (apart.run_dir / "checkpoints" / "best.pt").exists()
    train.train(change(apart, {"background": "off"}))
    assert_same(apart, here)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_leaves_whole_sets_and_one_sentence(apart: Config) -> None:
    """It reaches both processes; the worker process finishes its set."""
    cfg = change(apart, {"epochs": 10_000, "sample_every": 1, "score_every": 0})
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *flags(cfg)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    sets, until = cfg.run_dir / "samples", time.monotonic() + SECONDS
    while not (sets / "epoch_0002").is_dir() and time.monotonic() < until:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    try:
        said, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # both say where they stand
        pytest.fail(process.communicate()[0])
    assert process.returncode == 75
    assert "Traceback" not in said
    assert len(re.findall(r"Interrupted: SIGINT after step \d+: saved", said)) == 1
    made = sorted(sets.glob("epoch_*"))
    assert len(made) >= 2
    assert {len(list(folder.iterdir())) for folder in made} == {6}
    assert list(sets.glob(".*")) == []
    assert find_checkpoint(cfg.run_dir).state["epoch"] >= len(made)
