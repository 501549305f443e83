"""Ctrl-C and other signals as a request to stop, which the training loop honours after a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tqdm.auto import tqdm


class Stopped(KeyboardInterrupt):
    """A signal came while work was done that can simply be done again."""


class StopSignal:
    """Turns Ctrl-C, SIGTERM and a closed terminal into a request (`name`) for the loop to honour.

    A second signal has its usual effect: it stops at once.
    """

    def __init__(self) -> None:
        self.name = ""
        self._at_once = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                # One that is ignored already stays so: that is what nohup is for.
                if number and signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it a signal raises Stopped: for work that a continued run simply does again."""
        if self.name:
            raise Stopped
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _ask(self, number: int, _: object) -> None:
        self.name = signal.Signals(number).name
        self.__exit__()
        if self._at_once:
            raise Stopped
        with suppress(OSError):  # the terminal may be gone
            tqdm.write(f"{self.name}: finishing this step and saving. Again to stop at once.")
