"""A stage's items in child processes: one that fails, hangs or kills its process stops no other.

A child prints one JSON line a finding, and one with `"end": "done"` or `"failed"` after each item.
After a failure it ends, since an error of CUDA leaves nothing to go on with; what is left goes to a
new child.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

GRACE = 6.0  # s that what is ended has for ending by itself, of the stage's own time
LEAST = 8.0  # s without which no child is started
LINGER = 0.5  # s after the end of a child in which a last line may come
LINES = 12  # last lines that are told of a child that failed
FEW = 4  # of one that has nothing else to tell
WIDTH = 300  # characters of each

Tell = Callable[[dict], None]


class Child:
    """A process with a group of its own, so that all it started ends with it."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line.rstrip())
        self.lines.put(None)

    def line(self, wait: float) -> str | None:
        """Its next line; None at its end. Raises queue.Empty after so many seconds."""
        last = time.monotonic() + wait
        while (now := time.monotonic()) < last:
            ended = self.process.poll() is not None
            with suppress(queue.Empty):
                return self.lines.get(timeout=min(LINGER, last - now))
            if ended:  # what it started may still hold its output open
                return None
        raise queue.Empty

    def end(self, grace: float) -> None:
        """SIGTERM to all of the group, and SIGKILL to those that take longer than `grace`."""
        with suppress(ProcessLookupError):  # none is left
            os.killpg(self.process.pid, signal.SIGTERM)
            last = time.monotonic() + grace
            while time.monotonic() < last:
                self.process.poll()
                os.killpg(self.process.pid, 0)
                time.sleep(0.05)
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # one that not even the driver gives back
            self.process.wait(timeout=LINGER)


def run_items(
    command: Callable[[list[str], float], Sequence[str]],
    items: Sequence[str],
    seconds: float,
    limit: float,
    tell: Tell,
) -> tuple[list[str], list[str]]:
    """Go through items in children, for `seconds` in all and `limit` each.

    `command`: that of a child, for these items and so many seconds. What children say of findings
    goes to `tell`. Returns the items that failed, and those that no time was left for.
    """
    left, failed, last = list(items), [], time.monotonic() + seconds
    while left:
        spare = last - time.monotonic() - GRACE
        if spare < LEAST - GRACE:
            break
        done, why = run_child(command(left, spare), len(left), last - GRACE, limit, tell)
        failed += [item for item, ok in done.items() if not ok]
        left = left[len(done) :]
        if why and left:  # the child ended in the middle of this one
            tell({"item": left[0]} | why)
            failed.append(left.pop(0))
    return failed, left


def run_child(
    command: Sequence[str], count: int, last: float, limit: float, tell: Tell
) -> tuple[dict[str, bool], dict | None]:
    """One child for `count` items, until the moment `last`, and `limit` seconds an item.

    Returns whether each item that it finished was well, and why it ended before the next one.
    """
    child, said, done = Child(command), [], {}
    until, how = min(last, time.monotonic() + limit), ""
    try:
        while (line := child.line(until - time.monotonic())) is not None:
            row = parsed(line)
            if row is None:
                said = [*said, line[-WIDTH:]][-LINES:] if line else said
                continue
            tell(row)
            if "end" in row:
                done[row["item"]] = row["end"] == "done"
                until = min(last, time.monotonic() + limit)
    except queue.Empty:
        used_up = until >= last
        how = "no time was left" if used_up else f"it took longer than {limit:g} s"
    finally:
        child.end(GRACE if how else 0.5)
    if len(done) == count or not all(done.values()):
        if said:  # warnings, say
            tell({"said": said[-FEW:]})
        return done, None
    code = child.process.returncode
    why = how or f"its process ended with exit code {code}"
    return done, {"end": "failed", "why": why, "said": said}


def parsed(line: str) -> dict | None:
    """What a line of JSON says; None where it is no such line."""
    if not line.startswith("{"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
