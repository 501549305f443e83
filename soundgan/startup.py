"""Ctrl-C while a command still imports what it needs, which takes seconds.

Imports nothing of the package, and nothing that takes long itself.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress


def leave_on_interrupt() -> None:
    """Until `interrupt_as_usual`, Ctrl-C ends the process with exit code 130 and no traceback.

    Nothing has been begun by then. Where Ctrl-C is ignored already, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def interrupt_as_usual() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(*_: object) -> None:
    with suppress(OSError):  # the terminal may be gone
        os.write(2, b"Interrupted. Nothing was begun.\n")
    os._exit(130)  # as a shell counts it: 128 + SIGINT
