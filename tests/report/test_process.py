"""Work in another process: what it prints and raises, its constants, and how either one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from soundgan.audio import vocoders
from soundgan.errors import Interrupted, UserError
from soundgan.evaluation import classifier
from soundgan.report import process
from soundgan.report.pace import SAMPLES, SCORES
from soundgan.report.process import WorkerDied, WorkerProcess
from soundgan.training.signals import StopSignal

ROOT = Path(__file__).parents[2]
SECONDS = 60  # that nothing here may need


# The other process finds it by its name in this module.
class Odd:
    """Obeys: a piece of work is a command."""

    def do(self, part: str, content: str) -> None:
        if content == "say":
            print("one line\nand another")
            print("half a bar\rthe whole bar", file=sys.stderr)
        elif content == "refuse":
            raise UserError("mend this")
        elif content == "sleep":
            time.sleep(SECONDS)
        elif content == "constants":
            print(classifier.STEPS, classifier.SEEDS, vocoders.VOCODER_BATCH)


@pytest.mark.slow
def test_what_the_other_process_says_and_raises(capsys: pytest.CaptureFixture) -> None:
    with StopSignal() as stop:
        other = WorkerProcess(SCORES, "", Odd)
        assert other.wait(stop)
        capsys.readouterr()  # on a busy machine it says that it waits
        other.submit([SAMPLES], "say", stop)
        assert other.wait(stop)
        said = capsys.readouterr()
        assert said.out.split("\n")[:2] == ["one line", "and another"]
        assert "the whole bar" in said.err
        assert "half" not in said.err
        other.submit([SAMPLES], "refuse", stop)
        with pytest.raises(UserError, match=r"^mend this$"):
            other.wait(stop)
        assert not other._process.is_alive()
        assert other.wait(stop)  # nothing hangs after it
        other.end()


@pytest.mark.slow
def test_a_constant_that_was_changed_here_is_changed_there(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "STEPS", 21)
    monkeypatch.setattr(classifier, "SEEDS", (5,))
    monkeypatch.setattr(vocoders, "VOCODER_BATCH", 7)
    with StopSignal() as stop:
        other = WorkerProcess(SCORES, "", Odd)
        other.wait(stop)
        capsys.readouterr()
        other.submit([SAMPLES], "constants", stop)
        other.wait(stop)
        other.end()
    assert capsys.readouterr().out == "21 (5,) 7\n"


def test_what_is_sent_of_an_error() -> None:
    class Local(UserError):
        """One that the other side could not find."""

    full = process._to_send(OSError(28, "No space left on device", "outputs/x"))
    assert (type(full), full.errno, full.filename) == (OSError, 28, "outputs/x")
    interrupted = process._to_send(Interrupted("a"))
    assert (interrupted.exit_code, str(interrupted)) == (75, "a")
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        fault = process._to_send(error)
    assert isinstance(fault, RuntimeError)
    assert str(fault).count("Traceback") == 1
    assert "test_process.py" in str(fault)
    assert isinstance(process._to_send(Local("b")), RuntimeError)


@pytest.mark.slow
def test_a_signal_is_not_for_the_other_process_and_its_death_is_said() -> None:
    with StopSignal() as stop:
        other = WorkerProcess(SCORES, "", Odd)
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # while it starts
            os.kill(other._process.pid, getattr(signal, name))
        assert other.wait(stop)
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            os.kill(other._process.pid, getattr(signal, name))
        other.submit([SAMPLES], "", stop)
        assert other.wait(stop)
        other.submit([SAMPLES], "sleep", stop)
        os.kill(other._process.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"killed by SIGKILL.*--background off"):
            other.wait(stop)


SCRIPT = """
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
if __name__ == "__main__":
    from soundgan.report.process import WorkerProcess
    from soundgan.training.signals import StopSignal
    from test_process import Odd
    with StopSignal() as stop:
        other = WorkerProcess("scores", "", Odd)
        other.wait(stop)
        other.submit(["samples"], "sleep", stop)
        print(other._process.pid, flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
def test_the_other_process_does_not_outlive_the_training(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(SCRIPT.format(root=str(ROOT), tests=str(Path(__file__).parent)))
    training = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    other = next(int(line) for line in training.stdout if line.strip().isdigit())
    training.kill()
    training.wait()
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
