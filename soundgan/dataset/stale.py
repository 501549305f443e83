"""What the cache holds, and what of it goes.

The rule: one decoded set a data folder and constants of the sound, replaced when the files change.
What was made of the files of before (references of the scores) goes with it. So does whatever no
run has used for CACHE_DAYS. Nothing is touched that this program did not make.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from soundgan import files
from soundgan.console import plural
from soundgan.dataset import checked_json

CACHE_DAYS = 30  # after which what no run has used is removed
META, CLIPS = "meta.json", "clips.f32"  # all that a decoded set consists of

HEX = "[0-9a-f]{16}"
NAMES = {  # of what this program keeps, by kind
    "set": re.compile(HEX),
    "reference": re.compile(rf"evaluator-(?:({HEX})-)?{HEX}\.pt"),  # of data with this fingerprint
    "index": re.compile(rf"files-{HEX}\.json"),
    "lock": re.compile(rf"({HEX})\.lock"),
    "unfinished": re.compile(rf"{HEX}\.\d+\.tmp"),  # as earlier versions named it
}
FOLDERS = {"set", "unfinished"}


@dataclass(frozen=True)
class Entry:
    """Something of ours in the cache."""

    path: Path
    kind: str  # a key of NAMES
    used: float  # when, in s
    size: int  # bytes


def reference_path(cache: Path, fingerprint: str, key: str) -> Path:
    """Where a reference of the scores is kept that was made of data with this fingerprint."""
    return cache / f"evaluator-{fingerprint[:16]}-{key}.pt"


def mark_used(path: Path) -> None:
    """Give a file the time of now: it is in use. (A file of another user may refuse.)"""
    with suppress(OSError):
        if not path.is_symlink():
            os.utime(path)


def entries(cache: Path) -> Iterator[Entry]:
    """All that is ours in the cache: by name and kind, no links, no folder that holds more."""
    try:
        found = sorted(os.scandir(cache), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in found:
        kind = next((kind for kind, form in NAMES.items() if form.fullmatch(entry.name)), None)
        with suppress(OSError):  # another run removes it
            if kind in FOLDERS and entry.is_dir(follow_symlinks=False):
                inside = {part.name: part.stat(follow_symlinks=False) for part in os.scandir(entry)}
                if not inside.keys() <= {META, CLIPS} or (kind == "set" and not inside):
                    continue
                size = sum(part.st_size for part in inside.values())
                own = inside.get(META) or entry.stat(follow_symlinks=False)
                yield Entry(Path(entry.path), kind, own.st_mtime, size)
            elif kind and kind not in FOLDERS:
                own = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(own.st_mode):
                    yield Entry(Path(entry.path), kind, own.st_mtime, own.st_size)


def held(cache: Path) -> str:
    """One sentence for a dry run: what the cache holds, and how long it stays."""
    own = list(entries(cache))
    if not any(entry.size for entry in own):
        return f"Cache: nothing is kept in {cache} yet."
    return (
        f"Cache: {cache} holds {_what(own)}. What no run has used for {CACHE_DAYS} days is removed "
        f"by the next one (CACHE_DAYS in soundgan/dataset/stale.py)."
    )


def remove_stale(cache: Path, fingerprint: str, replaced: str = "") -> None:
    """Remove what is stale, and say so.

    `fingerprint`: of the data of this run, whose references stay. `replaced`: of the files that
    were decoded before those, if they are others. Never fails: another run may be doing the same.
    """
    with suppress(OSError):
        files.remove_unfinished(cache, older_than=files.DAY)
    own = list(entries(cache))
    stale = [entry for entry in own if _is_stale(entry, fingerprint[:16])]
    if replaced and not any(_made_of(entry, replaced) for entry in own if entry.kind == "set"):
        made = [entry for entry in own if _data_of(entry) == replaced[:16]]
        stale += [entry for entry in made if entry not in stale]
    gone = [entry for entry in stale if _remove(entry)]
    if any(entry.size for entry in gone if entry.kind not in ("lock", "index")):
        print(
            f"Removed from {cache}: {_what(gone)}, made of files that have changed or not used for "
            f"{CACHE_DAYS} days (CACHE_DAYS in soundgan/dataset/stale.py).",
            flush=True,
        )


def _what(some: list[Entry]) -> str:
    counts = {kind: sum(entry.kind == kind for entry in some) for kind in NAMES}
    sets, references = counts["set"] + counts["unfinished"], counts["reference"]
    names = [plural(sets, "decoded set")] if sets or not references else []
    names += [f"{plural(references, 'reference')} of the scores"] if references else []
    size = sum(entry.size for entry in some)
    unit, name = (2**30, "GiB") if size >= 2**30 else (2**20, "MiB")
    return f"{' and '.join(names)} ({size / unit:.1f} {name})"


def _data_of(entry: Entry) -> str | None:
    """Beginning of the fingerprint of the data that a reference was made of."""
    return NAMES["reference"].fullmatch(entry.path.name)[1] if entry.kind == "reference" else None


def _made_of(entry: Entry, fingerprint: str) -> bool:
    """Whether a decoded set is one of these files."""
    try:
        return checked_json.read(entry.path / META).get("fingerprint") == fingerprint
    except (OSError, checked_json.Damaged, AttributeError):
        return False


def _is_stale(entry: Entry, data: str) -> bool:
    if entry.kind == "lock" and entry.path.with_suffix("").exists():
        return False  # it goes with its set
    days = 1 if entry.kind == "unfinished" else CACHE_DAYS
    return time.time() - entry.used > days * files.DAY and _data_of(entry) != data


def _remove(entry: Entry) -> bool:
    """Whether an entry could be removed; a set only if no run is opening or making it."""
    try:
        if entry.kind == "lock":
            with files.if_free(entry.path) as free:
                if free:
                    entry.path.unlink()
                return free
        if entry.kind not in FOLDERS:
            entry.path.unlink()
            return True
        with files.if_free(entry.path.with_name(f"{entry.path.name[:16]}.lock")) as free:
            again = next((e for e in entries(entry.path.parent) if e.path == entry.path), None)
            if not free or again != entry:  # a run has just opened or replaced it
                return False
            going = files.unfinished_beside(entry.path)  # nobody sees half a set
            entry.path.rename(going)
            shutil.rmtree(going, ignore_errors=True)
    except OSError:
        return False
    return True
