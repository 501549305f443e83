"""What a command says on the terminal, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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


class ProgressLines(tqdm.std.tqdm):
    """Progress as a line now and then, for a log file: a bar would leave thousands of them."""

    monitor_interval = 0

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print the state of the bar as a line of its own."""
        self.fp.write(f"{self if msg is None else msg}\n")
        self.fp.flush()

    def close(self) -> None:
        """Print the last state, where it was not printed yet."""
        if self.disable:
            return
        unsaid = self.leave and self.n > self.last_print_n
        self.leave = False
        super().close()
        if unsaid:
            self.display()

    def clear(self, nolock: bool = False) -> None:
        """There is no bar that a line of text would have to make room for."""


def progress(total: int, unit: str, initial: int = 0, **options: object) -> tqdm.std.tqdm:
    """A progress bar on a terminal or in a notebook; elsewhere a line every LINE_SECONDS."""
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    if watched:
        options = {"mininterval": 0.5} | options
        return tqdm.auto.tqdm(total=total, initial=initial, unit=unit, **options)
    rare = {"mininterval": LINE_SECONDS, "maxinterval": 2 * LINE_SECONDS, "miniters": 1}
    return ProgressLines(total=total, initial=initial, unit=unit, **rare | options)


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
