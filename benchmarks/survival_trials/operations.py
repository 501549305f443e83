"""What a process does to files below a folder, one operation after the other, and a hand in it.

Opening, renaming and removing are seen by an audit hook, before they happen. Writing is seen by
files of our own, before it happens and when half of it has: so a process can be killed, or its disk
be full, at any moment of it.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from soundgan import files

OPENING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = {"os.rename": 1, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.truncate": 0}


@dataclass(frozen=True)
class Operation:
    """Something that is about to happen to a file."""

    kind: str  # open, write, rename, mkdir, remove, rmdir, truncate
    path: str
    source: str = ""  # of a rename
    size: int = 0  # bytes to write


def category(path: str) -> str:
    """What kind of file of a run this is."""
    parts = Path(path).parts
    name = parts[-1]
    if name.startswith(("evaluator", "scores")):
        return "score"
    for folder, kind in ((".cache", "cache"), ("checkpoints", "checkpoint"), ("samples", "sample")):
        if folder in parts:
            return kind
    names = {"index.html": "page", "losses.png": "log", "log.csv": "log"}
    return names.get(name, "weights" if name.endswith(".safetensors") else "other")


class Watch:
    """Sees what this process does below `folder`; `act` is called before each operation.

    For one of writing, `act` gets a function that writes the first half. To be put up in a fork:
    an audit hook can't be removed.
    """

    def __init__(self, folder: Path, act: Callable[[Operation, Callable[[], None]], None]) -> None:
        self.folder, self.act = str(folder), act
        self._acting = False
        sys.addaudithook(self._audit)
        plain = builtins.open

        def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest):
            named = isinstance(file, (str, bytes, os.PathLike))
            if not (named and set(mode) & set("wxa+") and self._within(os.fsdecode(file))) or rest:
                return plain(file, mode, buffering, encoding, errors, newline, *rest)
            raw = _File(self, file, mode)
            both = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            return both if "b" in mode else io.TextIOWrapper(both, encoding, errors, newline)

        builtins.open = io.open = opened

    def _within(self, path: str) -> bool:
        return os.path.abspath(path).startswith(self.folder)

    def _audit(self, event: str, arguments: tuple) -> None:
        if self._acting:
            return
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & OPENING:
            self.see(Operation("open", _named(arguments[0])))
        elif event in EVENTS:
            path = _named(arguments[EVENTS[event]], arguments[-1])
            source = _named(arguments[0]) if event == "os.rename" else ""
            self.see(Operation(event.removeprefix("os."), path, source))

    def see(self, operation: Operation, half: Callable[[], None] = lambda: None) -> None:
        if self._acting or not operation.path or not self._within(operation.path):
            return
        self._acting = True
        try:
            self.act(operation, half)
        finally:
            self._acting = False


def _named(path: object, folder: object = -1) -> str:
    """A path as text, also where it is given from an open folder; "" where it is a descriptor."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return ""
    text = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0 and not os.path.isabs(text):
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
    return text


class _File(io.FileIO):
    """A file whose writing is seen."""

    def __init__(self, watch: Watch, path: object, mode: str) -> None:
        super().__init__(path, mode.translate({ord("b"): None, ord("t"): None}))
        self.watch, self.path = watch, os.path.abspath(os.fsdecode(path))

    def write(self, content: bytes | memoryview) -> int:
        view = memoryview(content).cast("B")
        plain = super().write
        operation = Operation("write", self.path, size=len(view))
        self.watch.see(operation, lambda: plain(view[: len(view) // 2]))
        return plain(view)


# ---- what a hand in it can do --------------------------------------------------------------------


def record(folder: Path, into: list[Operation]) -> Watch:
    """Note every operation."""
    return Watch(folder, lambda operation, _: into.append(operation))


def final_names(operations: list[Operation]) -> list[str]:
    """Paths of the operations, where what is renamed when it is whole has its later name."""
    names = {}
    for operation in operations:
        if operation.kind == "rename" and files.UNFINISHED.fullmatch(Path(operation.source).name):
            names[Path(operation.source).name] = Path(operation.path).name
    return ["/".join(names.get(part, part) for part in o.path.split("/")) for o in operations]


def kill_at(folder: Path, index: int, half: bool) -> Watch:
    """End this process by SIGKILL before operation number `index`, or when half of it is written.

    (After one of them is before the next.)
    """
    seen = [0]

    def act(_: Operation, write_half: Callable[[], None]) -> None:
        if seen[0] == index:
            if half:
                write_half()
            os.kill(os.getpid(), signal.SIGKILL)
        seen[0] += 1

    return Watch(folder, act)


def disk_of(folder: Path, size: int) -> Watch:
    """Let the disk be full when `size` bytes have been written, in the midst of a write."""
    left = [size]

    def act(operation: Operation, write_half: Callable[[], None]) -> None:
        if operation.kind != "write":
            return
        left[0] -= max(4096, operation.size)  # a file system counts pages
        if left[0] <= 0:
            write_half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return Watch(folder, act)


def pick(rng: random.Random, operations: list[Operation], kind: str) -> int:
    """Index of one of the operations on files of a category (any, where there is none)."""
    paths = final_names(operations)
    own = [k for k, path in enumerate(paths) if category(path) == kind]
    return rng.choice(own or range(len(operations)))
