"""Files that survive a crash: whole or not at all; what may be opened and overwritten; locks.

Nothing is overwritten in place: a new file is written beside the old one, flushed to the disk and
renamed, so that a crash at any moment leaves a whole one, and a link is replaced, not followed.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from soundgan.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.soundgan-tmp")  # names of files and folders being written
LOCK_TEXT = b"soundgan: a run's folder\n"  # content of a lock: the mark of a folder of ours
GENERATED_MARK = ".soundgan"  # a file in a folder of generated sounds, which are no data,
GENERATED_TEXT = b"soundgan: generated sounds\n"  # and what is in it
DAY = 86_400  # s after which what is unfinished in a shared folder is nobody's work any more


# ---- writing ------------------------------------------------------------------------------------


def unfinished_beside(path: Path) -> Path:
    """A name for what will be renamed to `path`: short, and of no other process or thread."""
    return path.with_name(f".{secrets.token_hex(8)}.soundgan-tmp")


def write_bytes(
    path: Path, content: bytes | memoryview, keep_as: str = "", durable: bool = True
) -> None:
    """Replace a file by a whole new one; the old one is kept under the name `keep_as`, if given.

    `durable`: wait until it is on the disk, which a crash of the whole machine calls for; hundreds
    of sounds and pictures would take long. Raises OSError that names `path`, and leaves no half
    file.
    """
    unfinished = unfinished_beside(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(unfinished, "xb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            if keep_as and path.exists():
                os.replace(path, path.with_name(keep_as))
            os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Within it, an OSError that names no file (a full disk) or an unfinished one names `path`."""
    try:
        yield
    except OSError as error:
        known = error.filename is not None
        if error.errno is None or (known and not UNFINISHED.search(os.fsdecode(error.filename))):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Replace a CSV file; every cell is what `as_written` makes of it."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([[as_written(str(cell)) for cell in row] for row in rows])
    write_bytes(path, text.getvalue().encode())


def as_written(cell: str) -> str:
    """A cell as `write_csv` leaves it.

    Characters that UTF-8 lacks (broken file names) are escaped. A text that a spreadsheet would
    take for a formula begins with an apostrophe, which makes it a text there.
    """
    cell = cell.encode(errors="backslashreplace").decode()
    if not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of `folder` when all is in it.

    What stands there and holds more than the new one (a user's own file among the sounds), or is no
    folder, is set aside, and that is said.
    """
    unfinished = unfinished_beside(folder)
    with naming(folder):
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
            if os.path.lexists(folder):
                if _holds_more(folder, unfinished):
                    print(f"{folder} is kept as {set_aside(folder)}.", flush=True)
                else:
                    shutil.rmtree(folder)
            unfinished.rename(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def _holds_more(folder: Path, new: Path) -> bool:
    """Whether something would be lost that the folder `new` does not hold."""
    if folder.is_symlink() or not folder.is_dir():
        return True
    names = {entry.name for entry in os.scandir(folder) if not UNFINISHED.fullmatch(entry.name)}
    return bool(names - {entry.name for entry in os.scandir(new)})


def set_aside(path: Path) -> Path:
    """Rename a file or folder to `NAME.old1`, `NAME.old2` ..., whichever is free; returns that."""
    kept = _name_aside(path)
    os.replace(path, kept)
    return kept


def copy_aside(path: Path) -> Path:
    """Copy a file to the name that `set_aside` would give it; returns that."""
    kept = _name_aside(path)
    write_bytes(kept, read_bytes(path))
    return kept


def _name_aside(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}.old{n}{path.suffix}") for n in range(1, 10**6))
    return next(name for name in names if not os.path.lexists(name))


def remove_unfinished(folder: Path, older_than: float = 0.0) -> None:
    """Remove what a killed process left half written in `folder`, if it is `older_than` seconds.

    Without an age, nothing else may be writing there.
    """
    with suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            if not UNFINISHED.fullmatch(entry.name):
                continue
            with suppress(FileNotFoundError):  # another process has finished or removed it
                age = abs(time.time() - entry.stat(follow_symlinks=False).st_mtime)
                if age < older_than:  # of the future, where a clock was set back: old, too
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def refuse_links(folder: Path, names: Sequence[str]) -> None:
    """Raise UserError where one of these folders in a run's folder is a link.

    Files are replaced and never written through a link; a folder that is a link would lead writing
    and deleting elsewhere.
    """
    for name in names:
        if (folder / name).is_symlink():
            raise UserError(
                f"{folder / name} is a link, and nothing is written through a link inside a run's "
                "folder: put a folder there, or let --output-dir lie where the link leads."
            )


# ---- reading ------------------------------------------------------------------------------------


def nfc(name: str) -> str:
    """The composed Unicode form of a name: some systems store the other one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_regular(path: str | Path) -> bool:
    """Whether `path` is, or links to, a regular file: a pipe or a device would never end."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):  # gone, a dangling link, a NUL in its name
        return False


def read_bytes(path: Path) -> bytes:
    """The content of a regular file; raises OSError that names it."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(0, "it is no regular file", str(path))
    with naming(path):
        return path.read_bytes()


def read_csv(path: Path) -> list[list[str]]:
    """Rows of a CSV file as `write_csv` or a spreadsheet leaves it; empty ones are left out.

    UTF-8, UTF-16 or Windows-1252; cells apart by commas, semicolons or tabs. Raises OSError where
    it is no regular file, ValueError where its quotes do not close.
    """
    text = decoded(read_bytes(path))
    if text.lower().startswith("sep="):  # a line of Excel's own
        text = text.partition("\n")[2]
    apart = max(",;\t", key=text.partition("\n")[0].count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=apart, strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    return [row for row in rows if any(row)]


def decoded(content: bytes) -> str:
    """Text in UTF-8, UTF-16 or Windows-1252; what is none of these is shown as such."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    if content[1:200:2].count(0) * 2 > len(content[1:200:2]):
        return content.decode("utf-16-le", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def digest(*contents: object) -> str:
    """32 hexadecimal digits (BLAKE2b) of bytes or arrays, as they lie in memory, joined."""
    total = hashlib.blake2b(digest_size=16)
    for content in contents:
        total.update(content)
    return total.hexdigest()


def digest_of_file(path: str | Path) -> str:
    """`digest` of a file's content, read piece by piece."""
    total = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()


# ---- locks --------------------------------------------------------------------------------------


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder; raises UserError while another process trains in it.

    Both the folder and its `.lock` are locked: a file that is deleted meanwhile frees nothing. The
    system gives the lock back when a process ends, however it ends. Where there are no such locks
    (Windows, some network drives), nothing is held.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    refuse_links(run_dir, ("checkpoints", "samples", "tensorboard"))
    with _lock_file(run_dir / ".lock") as file, ExitStack() as stack:
        taken = _takes(file)
        if taken and fcntl is not None:
            with suppress(OSError):
                folder = os.open(run_dir, os.O_RDONLY)
                stack.callback(os.close, folder)
                taken = _takes(folder)
        if not taken:
            raise UserError(
                f"Another process is training in {run_dir}: wait for it, stop it, or start a run "
                "beside it with --run-name NAME."
            )
        for folder in (run_dir, run_dir / "checkpoints", run_dir / "samples"):
            remove_unfinished(folder)  # of a kill
        remove_unfinished(run_dir.parent, older_than=DAY)  # where other runs may be writing
        yield


@contextmanager
def in_turn(path: Path, waiting: str) -> Iterator[None]:
    """Hold a lock file; while another process has it, say `waiting` and wait. Where there are no
    locks (see `locked`), nothing is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(path) as file:
        if not _takes(file):
            print(waiting, flush=True)
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Hold a lock file if no other process has it; yields whether it is held."""
    with _lock_file(path) as file:
        yield _takes(file)


@contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    """The descriptor of a file that holds LOCK_TEXT; raises UserError where it is a link."""
    flags = os.O_RDWR | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # where the system knows them
        flags |= getattr(os, name, 0)
    try:
        file = os.open(path, flags, 0o644)
    except OSError as error:
        if path.is_symlink():
            raise UserError(f"{path} is a link, and no lock: remove it.") from error
        raise
    try:
        if os.fstat(file).st_size == 0:
            with suppress(OSError):  # a full disk: it locks all the same
                os.write(file, LOCK_TEXT)
        yield file
    finally:
        os.close(file)


def _takes(file: int) -> bool:
    """Lock a file unless another process has it; true also where there are no locks."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True
