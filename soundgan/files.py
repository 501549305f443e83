"""Files that survive a crash: whole or not at all; and locks between processes.

Nothing is overwritten in place: a new file is written beside the old one, flushed to the disk and
renamed, so that a crash at any moment leaves a whole one.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from soundgan.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def write_bytes(path: Path, content: bytes | memoryview, keep_as: str = "") -> None:
    """Replace a file by a whole new one; the old one is kept under the name `keep_as`, if given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # By process: two runs may write the page over all runs, or a shared cache, at the same time.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(unfinished, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if keep_as and path.exists():
        os.replace(path, path.with_name(keep_as))
    os.replace(unfinished, path)


def write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Replace a CSV file; characters that UTF-8 lacks (broken file names) are escaped."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_bytes(path, as_written(text.getvalue()).encode())


def as_written(name: str) -> str:
    """A name as `write_csv` leaves it."""
    return name.encode(errors="backslashreplace").decode()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of `folder` when all is in it."""
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def stamp(path: str | Path) -> tuple[int | None, int | None]:
    """Size and time of a file, which tell whether it is still the same."""
    try:
        stat = os.stat(path)
        return stat.st_size, stat.st_mtime_ns
    except OSError:  # a dangling link: it will be left out with this as its reason
        return None, None


# ---- locks --------------------------------------------------------------------------------------


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder; raises UserError while another process trains in it.

    The system gives the lock back when a process ends, however it ends. Where there are no such
    locks (Windows, some network drives), nothing is held.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "w") as file:
        if not _takes(file):
            raise UserError(
                f"Another process is training in {run_dir}: wait for it, stop it, or start a run "
                "beside it with --run-name NAME."
            )
        for stale in (*run_dir.glob("*.tmp"), *run_dir.glob("checkpoints/*.tmp")):  # of a kill
            stale.unlink(missing_ok=True)
        yield


@contextmanager
def in_turn(path: Path, waiting: str) -> Iterator[None]:
    """Hold a lock file; while another process has it, say `waiting` and wait. Where there are no
    locks (see `locked`), nothing is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        if not _takes(file):
            print(waiting, flush=True)
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _takes(file: IO[str]) -> bool:
    """Lock a file unless another process has it; true also where there are no locks."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True
