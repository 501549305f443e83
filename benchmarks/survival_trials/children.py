"""Commands of the program in processes that are forked from this one.

To import PyTorch takes longer than a tiny run. So it is imported once, and each command runs in a
fork, which begins as a fresh process would: this process itself never computes anything.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

PATIENCE = 120.0  # s after which a command hangs
GRACE = 2.0  # s for a hanging one to say where
TRACES = ("Traceback (most recent call last)", "Fatal Python error")

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG

Command = Callable[[], int | None]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int  # its exit code; -9: killed
    said: str  # both streams
    seconds: float
    peak: int  # bytes of memory that it took at most
    grown: int  # of these, beyond what it began with
    hung: bool = False

    @property
    def traced(self) -> bool:
        return any(trace in self.said for trace in TRACES)

    @property
    def last(self) -> str:
        """The last lines of what it said."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        return " / ".join(lines[-3:])[-500:]


@dataclass(frozen=True)
class Child:
    """A command that runs."""

    pid: int
    said: Path
    began: float

    def poll(self) -> Outcome | None:
        """How it ended, or None while it runs."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        return self._outcome(status, usage) if pid else None

    def wait(self, seconds: float = PATIENCE) -> Outcome:
        """Until it ends; one that hangs is made to say where, then killed."""
        last = time.monotonic() + seconds
        while time.monotonic() < last:
            if (ended := self.poll()) is not None:
                return ended
            time.sleep(0.004)
        self.signal(signal.SIGABRT)
        last = time.monotonic() + GRACE
        while time.monotonic() < last:
            if (ended := self.poll()) is not None:
                return replace(ended, hung=True)
            time.sleep(0.02)
        self.signal(signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        return replace(self._outcome(status, usage), hung=True)

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _outcome(self, status: int, usage: resource.struct_rusage) -> Outcome:
        code = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss * 1024
        said = self.said.read_text(errors="replace")
        grown = max(0, peak - _resident())
        return Outcome(code, said, time.monotonic() - self.began, peak, grown)


def start(command: Command, said: Path, memory: int = 0) -> Child:
    """Fork, and run `command` in the fork; its streams go to the file `said`.

    `memory`: bytes that it may map beyond what it begins with; 0: no limit.
    """
    began = time.monotonic()
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads can't be forked"
    pid = os.fork()
    if pid:
        return Child(pid, said, began)
    code = 1
    try:
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        _own_streams(said)
        if memory:
            most = _mapped() + memory
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        code = command() or 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run(command: Command, said: Path, seconds: float = PATIENCE, memory: int = 0) -> Outcome:
    """`start`, and wait for the end."""
    return start(command, said, memory).wait(seconds)


def _own_streams(said: Path) -> None:
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, number in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, number)
    os.close(file)
    os.close(null)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (for the life of this process)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    faulthandler.enable()


def _statm(field: int) -> int:
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()


def _mapped() -> int:
    return _statm(0)


def _resident() -> int:
    return _statm(1)


def import_all(names: Sequence[str]) -> None:
    """Import what a command imported on its way, so that later forks need not."""
    for name in names:
        if name not in sys.modules and not name.startswith("__"):
            with suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the forks share these pages as long as nobody touches them
