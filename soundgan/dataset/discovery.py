"""Folders -> audio files.

A class is a folder. What lies beside the folders, or below them in another format, is named in the
report: a person who sees "30 clips" of 32 must be able to find the two.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

AUDIO_EXTENSIONS = {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3"}
AUDIO_EXTENSIONS |= {".aif", ".aiff", ".aifc"}
SPLITS = {"train", "val", "valid", "validation", "dev", "eval", "test"}


@dataclass
class Found:
    """Audio files below a data folder, before any of them is opened."""

    root: Path
    files: list[str] = field(default_factory=list)  # relative to root, sorted: <class>/...
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (relative path, reason)
    folders: list[str] = field(default_factory=list)  # class folders, with a usable clip or without


def find_files(data_dir: str | Path, loose: bool = False) -> Found:
    """List the audio files of `data_dir/<class>/**`, or of `data_dir/train/<class>/**`.

    With `loose` (for recipes that use no labels) also those that lie beside the class folders.

    `train` is a split, and not a class, where it holds folders and stands beside nothing but other
    splits. Hidden, `__MACOSX` and `_...` folders and hidden files are ignored; anything else in a
    class folder that is no audio file lands in `left_out` with its reason. Links are followed, each
    folder once.
    """
    root = Path(data_dir)
    if not root.is_dir():
        return Found(root)
    train = [p for p in _folders(root) if p.name.lower() == "train" and _folders(p)]
    if train and {p.name.lower() for p in _folders(root)} <= SPLITS:
        root = train[0]
    found = Found(root)
    for entry in sorted(root.iterdir()):
        if _ignored(entry.name):
            continue
        if entry.is_dir():
            found.folders.append(entry.name)
            _walk(entry, found)
        elif entry.suffix.lower() in AUDIO_EXTENSIONS:
            if loose:
                found.files.append(entry.name)
            else:
                found.left_out.append((entry.name, "not in a class folder"))
    return found


def _ignored(name: str) -> bool:
    return name.startswith((".", "_"))


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [p for p in parent.iterdir() if p.is_dir() and not _ignored(p.name)]


def _walk(folder: Path, found: Found) -> None:
    def unreadable(error: OSError) -> None:
        where = Path(error.filename).relative_to(found.root).as_posix()
        found.left_out.append((where, f"cannot be read: {error.strerror}"))

    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not _ignored(f))
        inside = Path(parent).relative_to(found.root).as_posix()
        for name in sorted(f for f in files if not f.startswith(".")):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in AUDIO_EXTENSIONS:
                found.files.append(f"{inside}/{name}")
            else:
                reason = f"not a WAV, FLAC, OGG, MP3 or AIFF ({suffix or 'no extension'})"
                found.left_out.append((f"{inside}/{name}", reason))


def class_of(name: str) -> str:
    folder, _, rest = name.partition("/")
    return folder if rest else "(no class folder)"
