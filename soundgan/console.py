"""What a command says on the terminal, and how it ends."""

from __future__ import annotations

import errno
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import tqdm.auto
import tqdm.std

from soundgan import startup
from soundgan.errors import UserError

LINE_SECONDS = 30.0  # s between two lines of progress where nobody watches


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def plural(count: int, noun: str) -> str:
    """`1 file`, `2 files`, `2 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{ending}"


def shell_path(path: str | Path) -> str:
    """A path as a shell takes it in a command that is printed to be pasted."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)  # which would be a flag


def say(text: str) -> None:
    """Print to the standard error, which may be gone with its terminal."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


# ---- progress -----------------------------------------------------------------------------------


class ProgressLines:
    """Progress as a line now and then, for a log file: a bar would leave thousands of them."""

    def __init__(
        self,
        total: int,
        unit: str,
        initial: int = 0,
        desc: str = "",
        disable: bool = False,
        file: TextIO | None = None,
    ) -> None:
        self.total, self.unit, self.initial, self.n = total, unit, initial, initial
        self.disable, self.file = disable, file or sys.stderr
        self._prefix, self._postfix = desc, ""
        self._began = time.monotonic()
        self._printed = -math.inf  # when the last line was printed,
        self._shown = -1  # and which step it was of

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown != self.n:
            self._print()

    def update(self, n: int = 1) -> None:
        """Count `n` more; print a line if the last one is LINE_SECONDS old."""
        self.n += n
        if time.monotonic() - self._printed >= LINE_SECONDS:
            self._print()

    def set_description(self, desc: str, refresh: bool = False) -> None:
        self._prefix = desc

    def set_postfix(self, values: Mapping[str, str], refresh: bool = False) -> None:
        self._postfix = ", ".join(f"{name}={value}" for name, value in values.items())

    def write(self, text: str) -> None:
        """Print a line of text."""
        print(text, flush=True)

    def _print(self) -> None:
        if self.disable:
            return
        now = time.monotonic()
        self._printed, self._shown = now, self.n
        line = tqdm.std.tqdm.format_meter(
            self.n,
            self.total,
            now - self._began,
            prefix=self._prefix,
            unit=self.unit,
            postfix=self._postfix,
            initial=self.initial,
            ascii=True,  # a log file may have any encoding
        )
        with suppress(OSError):  # it may be gone
            print(line, file=self.file, flush=True)


Progress = tqdm.std.tqdm | ProgressLines


def progress(
    total: int, unit: str, initial: int = 0, desc: str = "", disable: bool = False
) -> Progress:
    """A progress bar on a terminal or in a notebook; elsewhere a line every LINE_SECONDS."""
    shared = {"total": total, "unit": unit, "initial": initial, "desc": desc, "disable": disable}
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm.auto.tqdm(**shared, mininterval=0.5)
    return ProgressLines(**shared)


# ---- standard streams ---------------------------------------------------------------------------


class LastingStream:
    """A standard stream whose other end may go away: the command goes on without it.

    A pipe may be closed (`| head`), a terminal gone, the disk of a log file full; none of these is
    worth a run of days.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lost = stream, False

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Lead the stream to nowhere, what it still holds back included."""
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
        self._lost, before = True, self._lost
        if error.errno != errno.EPIPE and not before:
            say(f"The output cannot be written ({error.strerror}): the command goes on without it.")


@contextmanager
def _lasting_streams() -> Iterator[None]:
    """Within it, standard streams can be written to whatever they are, if any."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed (`>&-`): the next file to be opened would be written to as if
            nowhere = os.open(os.devnull, os.O_RDWR)  # it were this stream; so that one is nowhere
            if nowhere == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(nowhere, number)
                os.close(nowhere)
    before = sys.stdout, sys.stderr
    streams = [stream or open(os.devnull, "w") for stream in before]  # noqa: SIM115 (to the end)
    for stream in streams:  # a class name may be what the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (LastingStream(stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


# ---- exit codes ---------------------------------------------------------------------------------

ELSEWHERE = "choose another folder (--output-dir; of generate.py: --out)"
ADVICE = {  # what to do about an error of the system, by its number
    errno.ENOSPC: f"free some space there, or {ELSEWHERE}",
    errno.EDQUOT: f"free some of your quota there, or {ELSEWHERE}",
    errno.EFBIG: f"raise the limit of a file's size (ulimit -f), or {ELSEWHERE}",
    errno.EACCES: f"mend the permissions of it and of its folder, or {ELSEWHERE}",
    errno.EPERM: f"mend the permissions of it and of its folder, or {ELSEWHERE}",
    errno.EROFS: f"what lies there can only be read: {ELSEWHERE}",
    errno.EMFILE: "let a process open more files (ulimit -n 4096)",
    errno.ENFILE: "close other programs: the system has no more files to open",
    errno.ENAMETOOLONG: "shorten the names of folders and classes in it",
    errno.ENOENT: "bring it back, or name the place where it is",
    errno.ENOTDIR: "name a folder: a file is in the way",
    errno.EISDIR: "name a file: a folder is in the way",
    errno.EEXIST: "rename what is in the way there",
    errno.EIO: "the disk or the network drive fails: copy what is on it, then see to that",
}


class Outcome:
    """Exit code of a command."""

    code = 0


@contextmanager
def friendly() -> Iterator[Outcome]:
    """Run a command: what a person can mend ends as one sentence and an exit code.

    What they cannot mend, a fault of the program, keeps its traceback.
    """
    outcome = Outcome()
    with _lasting_streams():
        try:
            startup.interrupt_as_usual()
            yield outcome
        except UserError as error:
            outcome.code = error.exit_code
            say(f"{error.heading}: {error}")
        except OSError as error:
            if error.errno is None:
                raise
            outcome.code = UserError.exit_code
            say(f"Error: {_explained(error)}")
        except KeyboardInterrupt:
            outcome.code = 130  # as a shell counts it: 128 + SIGINT
            say("Interrupted. What was saved before is intact.")


def _explained(error: OSError) -> str:
    """An error of the system: the file, the reason, and what to do about it."""
    name = "a file" if error.filename is None else error.filename
    name = os.fsdecode(name) if isinstance(name, bytes) else name
    advice = ADVICE.get(error.errno, f"see to that, or {ELSEWHERE}")
    return (
        f"{name} cannot be read or written ({error.strerror}). What was saved before is intact: "
        f"{advice}."
    )
