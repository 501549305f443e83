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
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import flags, weights

import background
import config
import dataset
import desk
import runs
import train
from background import Background, Fallen
from config import Config, UserError
from desk import SCORES, SET

ROOT = Path(desk.__file__).parent
SECONDS = 60  # that nothing here may need


@pytest.fixture
def apart(small: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Four epochs, three sets and two scorings, quick ones, made in the background."""
    monkeypatch.setattr(config, "EAR_STEPS", 20)
    monkeypatch.setattr(config, "SCORE_SEEDS", (0,))
    monkeypatch.setattr(config, "SCORE_BOOTSTRAP", 20)
    return replace(small, background="on", score_every=2, score_clips=4)


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


# ---- workers -------------------------------------------------------------------------------------
# The other process finds them by their names in this module.


class Odd:
    """Does what it is told: a piece of work is a command."""

    def do(self, part: str, content: str) -> None:
        if content == "say":
            print("one line\nand another")
            print("half a bar\rthe whole bar", file=sys.stderr)
        elif content == "refuse":
            raise UserError("mend this")
        elif content == "sleep":
            time.sleep(SECONDS)


def _slow_at_sets(*arguments: object) -> desk.Clerk:
    return _slow(0.5, SET, *arguments)


def _endless_at_scores(*arguments: object) -> desk.Clerk:
    return _slow(SECONDS, SCORES, *arguments)


def _refuses(*arguments: object) -> desk.Clerk:
    raise UserError("no clerk today")


def _slow(seconds: float, slow: str, *arguments: object) -> desk.Clerk:
    clerk = desk.Clerk.elsewhere(*arguments)
    do = clerk.do

    def slowly(part: str, snapshot: desk.Snapshot) -> None:
        if part == slow:
            time.sleep(seconds)
        do(part, snapshot)

    clerk.do = slowly
    return clerk


def hire(start: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.Clerk, "elsewhere", start)


# ---- the same files ------------------------------------------------------------------------------


def test_the_background_leaves_what_work_at_once_leaves(apart: Config, tmp_path: Path) -> None:
    inline = replace(apart, background="off", output_dir=str(tmp_path / "inline"))
    run, other = train.train(apart), train.train(inline)
    assert torch.equal(weights(run.generator), weights(other.generator))
    assert_same(apart, inline)
    assert [row["epoch"] for row in runs.read_log(apart.run_dir / "scores.csv", 9)] == [2, 4]


def test_where_work_is_done(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = []
    monkeypatch.setattr(desk, "Background", lambda *_: ways.append("apart"))
    monkeypatch.setattr(desk, "Inline", lambda *_: ways.append("at once"))
    split = dataset.Split(np.arange(18), [], "")
    clips = dataset.Clips(None, [], [], [], [], [], [], [], "", "")
    for chosen in ("auto", "on", "off"):
        for device in ("cuda", "cpu"):
            cfg = replace(small, background=chosen)
            for epoch in (0, cfg.epochs):
                there = torch.device(device)
                desk.Desk.open(cfg, [], clips, split, there, epoch, ("epoch",), True, None)
    # By device and epoch; where no training is left, there is nothing to hold up.
    once = "at once"
    assert ways == ["apart", once, once, once, "apart", once, "apart", once, once, once, once, once]


def test_a_clerk_leaves_every_random_state_as_it_was(small: Config) -> None:
    run = train.Run.start(small, ["high", "low", "mid"], torch.device("cpu"))
    clips = dataset.load_clips(small, dataset.find_files(small.data_dir))
    split = dataset.Split(np.arange(18), [], "")
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    clerk = desk.Clerk(small, run.classes, clips, split, run.device, 0, False)
    clerk.do(SET, train.snapshot_of(run))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    assert clerk.generator is not run.generator
    assert torch.equal(weights(clerk.generator), weights(run.generator))


# ---- what goes wrong -----------------------------------------------------------------------------


def test_what_the_other_process_says_and_raises(capsys: pytest.CaptureFixture) -> None:
    with runs.StopSignal() as stop:
        other = Background(SCORES, "", Odd)
        assert other.wait(stop)
        other.do([SET], "say", stop)
        assert other.wait(stop)
        said = capsys.readouterr()
        assert said.out.split("\n")[:2] == ["one line", "and another"]
        assert "the whole bar" in said.err
        assert "half" not in said.err
        other.do([SET], "refuse", stop)
        with pytest.raises(UserError, match=r"^mend this$"):
            other.wait(stop)
        assert not other._process.is_alive()
        assert other.wait(stop)  # nothing hangs after it
        other.end()


def test_what_is_sent_of_an_error() -> None:
    class Local(UserError):
        """One that the other side could not find."""

    full = background._to_send(OSError(28, "No space left on device", "outputs/x"))
    assert (type(full), full.errno, full.filename) == (OSError, 28, "outputs/x")
    interrupted = background._to_send(desk.Interrupted("a"))
    assert (interrupted.exit_code, str(interrupted)) == (75, "a")
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        fault = background._to_send(error)
    assert isinstance(fault, RuntimeError)
    assert str(fault).count("Traceback") == 1
    assert "test_desk.py" in str(fault)
    assert isinstance(background._to_send(Local("b")), RuntimeError)


def test_a_signal_is_not_for_the_other_process_and_its_death_is_told() -> None:
    with runs.StopSignal() as stop:
        other = Background(SCORES, "", Odd)
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # while it starts
            os.kill(other._process.pid, getattr(signal, name))
        assert other.wait(stop)
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            os.kill(other._process.pid, getattr(signal, name))
        other.do([SET], "", stop)
        assert other.wait(stop)
        other.do([SET], "sleep", stop)
        os.kill(other._process.pid, signal.SIGKILL)
        with pytest.raises(Fallen, match=r"killed by SIGKILL.*--background off"):
            other.wait(stop)


def test_a_run_whose_clerk_fails_ends_with_the_reason(
    apart: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    hire(_refuses, monkeypatch)
    with pytest.raises(UserError, match="no clerk today"):
        train.train(apart)
    with runs.locked(apart.run_dir):  # and lets go of everything
        pass


SCRIPT = """
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
if __name__ == "__main__":
    import runs
    from background import Background
    from test_desk import Odd
    with runs.StopSignal() as stop:
        other = Background("scores", "", Odd)
        other.wait(stop)
        other.do(["samples"], "sleep", stop)
        print(other._process.pid, flush=True)
        time.sleep(60)
"""


def test_the_other_process_does_not_outlive_the_training(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(SCRIPT.format(root=str(ROOT), tests=str(ROOT / "tests")))
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    other = int(process.stdout.readline())
    process.kill()
    process.wait()
    until = time.monotonic() + 60
    while _lives(other) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _lives(other)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


# ---- one piece of work, which no checkpoint passes -----------------------------------------------


def test_no_checkpoint_passes_work_and_no_work_passes_work(
    apart: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sets that take longer than epochs, and a checkpoint due after each of these."""
    monkeypatch.setattr(config, "CHECKPOINT_SECONDS", 0)
    hire(_slow_at_sets, monkeypatch)
    cfg, folder = replace(apart, sample_every=1, score_every=0), apart.run_dir / "samples"
    saved, do, save = [], Background.do, runs.save_checkpoint

    def watched_do(self: Background, *arguments: object) -> bool:
        assert self.left == []
        return do(self, *arguments)

    def watched_save(run_dir: Path, state: dict) -> None:
        sets = [p.name for p in folder.glob("epoch_*")]
        assert len(sets) == state["epoch"] - 1  # this epoch's is handed in after it
        saved.append(state["epoch"])
        save(run_dir, state)

    monkeypatch.setattr(Background, "do", watched_do)
    monkeypatch.setattr(runs, "save_checkpoint", watched_save)
    train.train(cfg)
    assert saved == [1, 2, 3, 4]
    assert len(list(folder.glob("epoch_*"))) == 4


def test_when_a_checkpoint_is_due(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    way = background.Inline(SCORES, Odd)
    log = runs.Log(small.run_dir / "log.csv", ("epoch",), 0)
    with runs.StopSignal() as stop:
        made = desk.Desk(replace(small, checkpoint_every=2), way, log, set(), stop)
        assert not made.owes_checkpoint(1)
        assert made.owes_checkpoint(2)  # the first one need not wait
        made.save_checkpoint({})
        now[0] += config.CHECKPOINT_SECONDS - 1
        assert not made.owes_checkpoint(4)  # too soon after the last
        now[0] += 1
        assert made.owes_checkpoint(5)  # put off from epoch 4
        way.left = [SCORES]
        assert not made.owes_checkpoint(6)
        now[0] += 5 * config.CHECKPOINT_SECONDS
        assert made.owes_checkpoint(6)  # waits for them now
        way.left = []
        made.save_checkpoint({})
        assert not made.owes_checkpoint(7)


def test_rows_of_the_log_reach_the_disk(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten seconds, and when the numbers diverge; not with every epoch."""
    cfg = replace(small, epochs=9, sample_every=9, checkpoint_every=9)
    written, write = [], runs.Log.write

    def counted(self: runs.Log) -> None:
        written.append(len(self.rows))
        write(self)

    monkeypatch.setattr(runs.Log, "write", counted)
    penalty, taken = train.gradient_penalty, [0]

    def diverging(*arguments: object) -> torch.Tensor:
        taken[0] += 1
        return penalty(*arguments) * (float("nan") if taken[0] > 5 * 4 * 3 else 1)

    monkeypatch.setattr(train, "gradient_penalty", diverging)
    with pytest.raises(train.Diverged):
        train.train(cfg)
    assert [row[0] for row in log_without_seconds(cfg)] == ["epoch", "1", "2", "3", "4", "5"]
    assert [n for n in written if n] == [1, 5]  # with the set after epoch 1, and at the end


# ---- stopping ------------------------------------------------------------------------------------


def test_a_stopped_run_waits_for_its_set(apart: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    hire(_slow_at_sets, monkeypatch)
    stop_after(6, monkeypatch)  # while the set of epoch 1 is made
    cfg = replace(apart, score_every=0)
    with pytest.raises(desk.Interrupted, match="SIGTERM after step 6: saved"):
        train.train(cfg)
    assert runs.load_checkpoint(cfg.run_dir)["step"] == 6
    sets = cfg.run_dir / "samples"
    assert len(list((sets / "epoch_0001").glob("*.png"))) == 3
    assert list(sets.glob(".*")) == []


def test_a_stopped_run_gives_scores_up_and_makes_them_again(
    apart: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = replace(apart, background="off", output_dir=str(tmp_path / "inline"))
    train.train(inline)
    with monkeypatch.context() as patch:
        hire(_endless_at_scores, patch)
        patch.setattr(config, "STOP_PATIENCE", 0.5)
        stop_after(10, patch)  # in epoch 3, while those of epoch 2 are made
        with pytest.raises(
            desk.Interrupted, match=r"scores of epoch 2 .*STOP_PATIENCE.*epoch 2, step 8, just"
        ) as stopped:
            train.train(apart)
    assert stopped.value.exit_code == 75
    assert runs.load_checkpoint(apart.run_dir)["step"] == 8
    assert not (apart.run_dir / "checkpoints" / "best.pt").exists()
    train.train(replace(apart, background="off"))
    assert_same(apart, inline)


def test_ctrl_c_in_a_terminal_leaves_whole_sets_and_one_sentence(apart: Config) -> None:
    """It reaches both processes; the background one finishes its set."""
    cfg = replace(apart, epochs=10_000, sample_every=1, score_every=0)
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
    assert runs.load_checkpoint(cfg.run_dir)["epoch"] >= len(made)
