"""What a command says on the terminal, and how it ends."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TextIO

import tqdm.auto
import tqdm.std

from soundgan.errors import UserError

LINE_SECONDS = 30.0  # s between two lines of progress where nobody watches


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


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


# ---- exit codes ---------------------------------------------------------------------------------


class Outcome:
    """Exit code of a command."""

    code = 0


@contextmanager
def friendly() -> Iterator[Outcome]:
    """Run a command: what a person can mend ends as one sentence and an exit code.

    What they cannot mend, a fault of the program, keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):  # a class name may be what the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    outcome = Outcome()
    try:
        yield outcome
    except UserError as error:
        outcome.code = error.exit_code
        say(f"{error.heading}: {error}")
    except OSError as error:
        if error.errno is None:
            raise
        outcome.code = UserError.exit_code
        say(
            f"Error: {error.filename or 'a file'} cannot be read or written ({error.strerror}). "
            "What was saved before is intact: mend its permissions, free some space there, or "
            "choose another folder."
        )
    except KeyboardInterrupt:
        outcome.code = 130  # as a shell counts it: 128 + SIGINT
        say("Interrupted. What was saved before is intact.")
