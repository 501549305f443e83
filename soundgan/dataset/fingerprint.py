"""Which files a data set is made of: by name, size and content, never by time.

Colab, rsync and whoever unpacks an archive again give the same files new times; some tools change a
file and give it back its old one. So the content itself is read. That is done once: an index in the
cache keeps a checksum of each file beside what the system says of it (size, times, number), and
only a file of which it says something else is read again. The time of the last change of a file's
entry (ctime) is among them, which no program can set.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

from soundgan import files
from soundgan.console import progress
from soundgan.dataset import checked_json
from soundgan.dataset.discovery import Found
from soundgan.settings import Config

SETTLED = 2.0  # s since a file's last change: a change within them may leave its times as they are
PIECE = 1 << 18  # bytes read at a time, by each thread
WORTH_A_BAR = 1 << 30  # bytes to read from which on progress is shown


def fingerprint_of(cfg: Config, found: Found, keep: bool = True) -> str:
    """32 hexadecimal digits that differ where a file's name, size or content does, or what is left
    out. The Unicode form of names makes no difference, nor does where the folder lies.

    With `keep` false the index is read and not written.
    """
    path = cfg.cache_dir / f"files-{key_of(found.root)}.json"
    index = _read(path)
    stamps = {name: _stamp(f"{found.root}/{name}") for name in found.files}
    new = [name for name in found.files if not _knows(index, name, stamps[name])]
    now = {name: index[name] for name in found.files if _knows(index, name, stamps[name])}
    fresh = _digests(cfg, found, new, sum(_size(stamps[name]) for name in new))
    if keep:
        settled = {name: line for name, (line, is_settled) in fresh.items() if is_settled}
        _write(path, now | settled, changed=bool(settled) or len(now) < len(index))
    now |= {name: line for name, (line, _) in fresh.items()}
    total = hashlib.blake2b(digest_size=16)
    entries = [
        (files.nfc(name), _size(now[name]), now[name].rpartition(" ")[2]) for name in found.files
    ]
    left_out = [(files.nfc(name), reason) for name, reason in found.left_out]
    for entry in sorted(left_out) + sorted(entries):
        total.update(repr(entry).encode(errors="backslashreplace"))
    return total.hexdigest()


def differ(one: str, other: str) -> bool:
    """Whether two fingerprints are of other files; one of an earlier version, which has another
    length, cannot be compared."""
    return len(one) == len(other) and one != other


def key_of(root: Path) -> str:
    """16 hexadecimal digits for a folder."""
    return files.digest(os.fsencode(root.resolve()))[:16]


# ---- the index: name -> "size mtime ctime inode checksum" ----------------------------------------


def _read(path: Path) -> dict[str, str]:
    """The index; an empty one where there is none or it is damaged, for it is soon made again."""
    try:
        index = checked_json.read(path)
    except (FileNotFoundError, checked_json.Damaged):
        return {}
    whole = isinstance(index, dict) and all(isinstance(line, str) for line in index.values())
    return index if whole else {}


def _write(path: Path, index: dict[str, str], changed: bool) -> None:
    """Keep the index, or mark it as used. Where it cannot be kept, the files are read next time."""
    with suppress(OSError):
        if changed:
            checked_json.write(path, index)
        elif index:
            os.utime(path)


def _knows(index: dict[str, str], name: str, stamp: str) -> bool:
    return bool(stamp) and index.get(name, "").rpartition(" ")[0] == stamp


def _stamp(path: str | int) -> str:
    """What the system says of a regular file, by its path or descriptor; empty where it is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a dangling link: it will be left out with this as its reason
        return ""
    if not stat.S_ISREG(found.st_mode):
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _size(line: str) -> int:
    return int(line.partition(" ")[0] or -1)


# ---- reading ------------------------------------------------------------------------------------


def _digests(cfg: Config, found: Found, names: list[str], size: int) -> dict[str, tuple[str, bool]]:
    """The lines of the index for these files, read in threads, and whether each may be kept."""
    stop = Event()
    lines: dict[str, tuple[str, bool]] = {}
    pool = ThreadPoolExecutor(cfg.decode_threads or os.cpu_count() or 1)
    quiet = size < WORTH_A_BAR
    try:
        with progress(len(names), "file", desc="Reading the files", disable=quiet) as bar:
            coming = pool.map(lambda name: _digest(f"{found.root}/{name}", stop), names)
            for name, line in zip(names, coming):
                lines[name] = line
                with suppress(OSError):  # the terminal may be gone
                    bar.update()
    finally:
        stop.set()  # on Ctrl-C, do not read what nobody waits for
        pool.shutdown(cancel_futures=True)
    return lines


def _digest(path: str, stop: Event) -> tuple[str, bool]:
    """A file's line of the index (without stamp and checksum where it cannot be read), and whether
    its times tell of whatever happens to it from now on."""
    begun = time.time_ns()
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.open(path, flags)
    except (OSError, ValueError):
        return "", False
    try:
        if not (stamp := _stamp(file)):
            return "", False
        total = hashlib.blake2b(digest_size=16)
        while not stop.is_set() and (piece := os.read(file, PIECE)):
            total.update(piece)
    except OSError:  # of the disk: decoding it will say so
        return "", False
    finally:
        os.close(file)
    changed = max(map(int, stamp.split(" ")[1:3]))
    return f"{stamp} {total.hexdigest()}", changed < begun - SETTLED * 1e9
