"""Who does work that training need not wait for: this process at once, or another one meanwhile.

Nothing here knows what the work is. A worker (`start(*arguments)`) has a method `do(part, content)`
and gets one piece of work at a time, of one or more named parts. Both ways print the same and raise
the same.
"""

from __future__ import annotations

import importlib
import io
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.connection import Connection
from pathlib import PurePath
from typing import Protocol

import torch
from tqdm.auto import tqdm

from soundgan.errors import UserError
from soundgan.training.devices import explain_memory
from soundgan.training.signals import Stopped, StopSignal

STARTING = "starting"  # what is pending before the first piece of work
STOP_PATIENCE = 20.0  # s that a stopped run waits for scores being made in the worker process
LINGER = 5.0  # s for the worker process to end by itself
WAIT_UNSAID = 5.0  # s of waiting for the worker process after which that is said
NICE = 10  # by how much the worker process lets training go first where both want a core


class Worker(Protocol):
    def do(self, part: str, content: object) -> None: ...


class WorkerDied(UserError):
    """The worker process has ended without being asked to."""

    exit_code = 1


# ---- at once ------------------------------------------------------------------------------------


class InProcess:
    """Work is done when it is submitted."""

    pending: tuple[str, ...] = ()  # parts that are not done yet

    def __init__(self, repeatable: str, start: Callable[..., Worker], *arguments: object) -> None:
        """`repeatable`: the part that a signal ends, because a continued run does it again."""
        self._repeatable, self._worker = repeatable, start(*arguments)
        self._costs: list[tuple[str, float]] = []

    def submit(self, parts: Sequence[str], content: object, stop: StopSignal) -> bool:
        """Do all parts; False where a signal came instead."""
        for part in parts:
            try:
                with stop.at_once() if part == self._repeatable else nullcontext():
                    self._costs.append((part, _seconds_of(self._worker, part, content)))
            except Stopped:
                return False
        return True

    def take_costs(self) -> list[tuple[str, float]]:
        """The parts that were done since this was last asked, and the seconds that each took."""
        taken, self._costs = self._costs, []
        return taken

    def poll(self) -> None:
        """There is never a message."""

    def wait(self, stop: StopSignal) -> bool:
        return True

    def end(self) -> None:
        """There is nothing to end."""


def _seconds_of(worker: Worker, part: str, content: object) -> float:
    """Have a part done; the seconds that it took."""
    began = time.perf_counter()
    worker.do(part, content)
    return time.perf_counter() - began


# ---- in another process -------------------------------------------------------------------------
# A process of its own, started anew ('spawn': a fork could not use CUDA), for the whole run. It
# sends through a pipe what it has done, what it would print, and what went wrong.

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # that reach all of a terminal's processes


class WorkerProcess:
    """Does one piece of work at a time in another process, which `start(*arguments)` equips."""

    def __init__(
        self, repeatable: str, advice: str, start: Callable[..., Worker], *arguments: object
    ) -> None:
        """`repeatable`: the part that need not be waited for after a signal, because a continued
        run does it again. `advice`: what to change where memory is short.
        """
        self._repeatable = repeatable
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        setting = (constants(), torch.get_num_threads(), advice)
        self._process = context.Process(
            target=_serve, args=(theirs, setting, start, arguments), daemon=True
        )
        with _signals_blocked():
            self._process.start()
        theirs.close()  # so that the pipe ends where the other process does
        self.pending = [STARTING]  # what is not done yet
        self._costs: list[tuple[str, float]] = []

    def submit(self, parts: Sequence[str], content: object, stop: StopSignal) -> bool:
        """Send work, which must be picklable, and return; nothing else may be pending."""
        assert not self.pending, self.pending
        self.pending = list(parts)
        try:
            self._pipe.send((list(parts), content))
        except OSError:
            raise self._died() from None
        return True

    def take_costs(self) -> list[tuple[str, float]]:
        """The parts that were done since this was last asked, and the seconds that each took."""
        taken, self._costs = self._costs, []
        return taken

    def poll(self) -> None:
        """Show what the other process printed so far; raises what it raised, or WorkerDied."""
        while self._receive(0):
            pass

    def wait(self, stop: StopSignal) -> bool:
        """Until all is done, as `poll`; True. After a signal the repeatable part gets STOP_PATIENCE
        seconds at most: then the process is ended, and False returned.
        """
        until, say = math.inf, time.monotonic() + WAIT_UNSAID
        while self.pending:
            now = time.monotonic()
            if stop.name:
                until = min(until, now + STOP_PATIENCE)
            if self.pending == [self._repeatable] and now >= until:
                self.end()
                return False
            if now >= say:
                say = math.inf
                show("stdout", f"Waiting for the worker process: {self.pending[0]}.")
            self._receive(0.2)
        self.poll()
        return True

    def end(self) -> None:
        """End the process, whatever it does."""
        busy = bool(self.pending)
        self.pending = []
        self._pipe.close()  # which ends it where it waits for work
        if not busy:
            self._process.join(LINGER)
        self._process.kill()
        self._process.join()

    def _receive(self, seconds: float) -> bool:
        """Take one message, if one comes within so many seconds."""
        if self._pipe.closed:
            return False
        try:
            if not self._pipe.poll(seconds):
                return False
            kind, content = self._pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if kind == "done":
            part, seconds = content
            self.pending.remove(part)
            if part != STARTING:
                self._costs.append((part, seconds))
        elif kind == "failed":
            self.end()
            raise content
        else:
            show(kind, content)
        return True

    def _died(self) -> WorkerDied:
        self.end()
        code = self._process.exitcode
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}: perhaps memory was short"
        return WorkerDied(
            f"the worker process that makes samples and scores has died ({how}). What was saved "
            "before is intact; the same command continues. With --background off, training makes "
            "them itself."
        )


def constants() -> dict[str, dict[str, object]]:
    """Constants of the package's imported modules as they are now: {module: {NAME: value}}.

    One that was changed while this process runs is to be changed for the worker process, too.
    """
    modules = {name: m for name, m in sys.modules.items() if name.startswith("soundgan.")}
    return {
        name: {n: v for n, v in vars(module).items() if n.isupper() and _plain(v)}
        for name, module in modules.items()
    }


def _plain(value: object) -> bool:
    """Whether a value is nothing but numbers, text and collections of these."""
    if isinstance(value, dict):  # of the other mappings, not all can be sent
        return all(map(_plain, (*value, *value.values())))
    if isinstance(value, (tuple, list, set, frozenset)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, bytes, PurePath))


def show(stream: str, text: str) -> None:
    """Above a progress bar, if there is one."""
    with suppress(OSError):  # the terminal may be gone
        tqdm.write(text, file=getattr(sys, stream))


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process that is started within never gets a Ctrl-C, not even while it starts.

    The signal of a terminal or of a batch system reaches both; what becomes of the work is decided
    by the one that trains.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which would undo the next line
    block = {getattr(signal, name) for name in SIGNALS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, block)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- the other process --------------------------------------------------------------------------


def _serve(
    pipe: Connection,
    setting: tuple[Mapping[str, Mapping[str, object]], int, str],
    start: Callable[..., Worker],
    arguments: Sequence[object],
) -> None:
    """The other process: its whole life."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in SIGNALS:
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    with suppress(AttributeError, OSError):  # Windows has no such thing
        os.nice(NICE)
    changed, threads, advice = setting
    for name, values in changed.items():
        vars(importlib.import_module(name)).update(values)
    torch.set_num_threads(threads)
    # Libraries may print from threads of their own, and what is collected as garbage while a
    # message is made may print in the middle of it.
    one_at_a_time = threading.RLock()

    def send(kind: str, content: object) -> None:
        with one_at_a_time:
            pipe.send((kind, content))

    sys.stdout, sys.stderr = (ForwardedStream(send, name) for name in ("stdout", "stderr"))
    try:
        with explain_memory(advice):
            worker = start(*arguments)
            send("done", (STARTING, 0.0))
            while work := _next(pipe):
                parts, content = work
                for part in parts:
                    send("done", (part, _seconds_of(worker, part, content)))
    except BaseException as error:
        with suppress(OSError):  # nobody is there to receive it
            send("failed", _to_send(error))


def _end_with_parent() -> None:
    """However the training ends, be it by SIGKILL: then another one may use the folder at once."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _next(pipe: Connection) -> tuple[list[str], object] | None:
    try:
        return pipe.recv()
    except (EOFError, OSError):  # there is no more
        return None


def _to_send(error: BaseException) -> BaseException:
    """What is raised on the other side: what a person can mend as it is, else the traceback."""
    if isinstance(error, (UserError, OSError)):
        with suppress(Exception):
            return pickle.loads(pickle.dumps(error))
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return RuntimeError("in the worker process:\n\n" + "".join(lines))


class ForwardedStream(io.TextIOBase):
    """A standard stream of the worker process, whose lines the training process shows."""

    def __init__(self, send: Callable[[str, str], None], name: str) -> None:
        self._send, self._name, self._line = send, name, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, rest = (self._line + text).split("\n")
        self._line = rest.rpartition("\r")[2]  # of a progress bar, what would be seen
        if lines:
            shown = [line.rpartition("\r")[2] for line in lines]
            with suppress(OSError):
                self._send(self._name, "\n".join(shown))
        return len(text)
