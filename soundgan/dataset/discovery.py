"""Folders -> audio files.

A class is a folder. What lies beside the folders, or below them in another format, is named in the
report: a person who sees "30 clips" of 32 must be able to find the two. Each file counts once, in
the folder it lies in, however many links lead to it.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from soundgan.console import shell_path
from soundgan.dataset import products
from soundgan.dataset.folders import (
    AUDIO_EXTENSIONS,
    CONVERTIBLE,
    Identity,
    Survey,
    entries,
    hidden,
    identity,
    leads_to_folder,
    suffix,
)
from soundgan.dataset.layouts import layout, readable
from soundgan.files import nfc

MAX_NAME_BYTES = 150  # of a class in UTF-8: names of files are made of it, which have 255 at most
NO_CLASS = "(no class folder)"
NOT_IN_CLASS = "not in a class folder"
IRREGULAR = "not a regular file (a pipe or a device)"
DANGLING = "a link that leads nowhere"
NOT_FETCHED = "a link to what git-annex has not fetched (git annex get .)"
GENERATED = "made by generate.py, as its name says (rename it to train on it)"
LEADS_UP = "a link to a folder that it lies in"


@dataclass
class Found:
    """Audio files below a data folder, before any of them is opened."""

    root: Path
    files: list[str] = field(default_factory=list)  # relative to root, sorted: <class>/...
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (relative path, reason)
    folders: list[str] = field(default_factory=list)  # class folders, with a usable clip or without
    notes: list[str] = field(default_factory=list)  # sentences: what was recognised, left out


def find_files(
    data_dir: str | Path,
    loose: bool = False,
    outputs: Iterable[str] = (),
    classes: Collection[str] = (),
    option: str = "--data-dir",
) -> Found:
    """List the audio files of `data_dir/<class>/**`, or of where `layouts` finds the class folders.

    With `loose` (for recipes that use no labels) also those that lie beside the class folders.

    Hidden, `__MACOSX` and `_...` folders and hidden files are ignored; so are runs, generated
    sounds and folders of runs (`outputs`, whatever they look like), by name. Anything else in a
    class folder that is no audio file lands in `left_out` with its reason. Links are followed;
    a file counts once, in the folder it lies in.

    `classes` are those of the run where it has begun, `option` is the flag that names `data_dir`.
    Raises UserError where the folders are certainly no classes.
    """
    if not Path(data_dir).is_dir():
        return Found(Path(data_dir))
    survey = Survey(outputs)
    where = layout(str(data_dir), survey, loose, classes, option)
    found = _Walk(where.root, survey, loose).walk()
    found.notes += where.notes
    ours = sorted(os.path.relpath(path, data_dir) for path in survey.ours)
    ours = [path for path in ours if not any(path.startswith(f"{other}/") for other in ours)]
    if ours:
        found.notes.append(f"Left out below {data_dir}, as made by this program: {readable(ours)}.")
    if apart := _set_apart(where.root):
        found.notes.append(f"Ignored, for their names begin with _: {readable(apart)}.")
    if advice := conversion(found):
        found.notes.append(advice)
    return found


def _set_apart(root: str) -> list[str]:
    """Folders right below `root` that are ignored for their names, those of systems aside."""
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.name.startswith("_") and entry.is_dir()]
    return sorted(name for name in names if name != "__MACOSX")


def conversion(found: Found) -> str:
    """Which files have formats that are not read, and the command that converts them; or ""."""
    if not any(suffix(name) in CONVERTIBLE for name, _ in found.left_out):
        return ""
    converted = {os.path.splitext(name)[0] for name in found.files}
    kinds = Counter(
        suffix(name)
        for name, _ in found.left_out
        if suffix(name) in CONVERTIBLE and os.path.splitext(name)[0] not in converted
    )
    if not kinds:
        return ""
    counts = readable([f"{count} {kind}" for kind, count in kinds.items()])
    root = shell_path(found.root)
    pattern = " -o ".join(f"-iname '*{kind}'" for kind in kinds)
    return (
        f"Files of a format that is not read lie below {found.root}: {counts}. This makes WAV "
        f"files of them:\n  find -L {root} -type f ! -name '.*' \\( {pattern} \\) -exec sh -c "
        """'for f; do ffmpeg -nostdin -n -v error -i "$f" -vn "${f%.*}.wav"; done' sh {} +"""
    )


def class_of(name: str) -> str:
    """Class of a file by its relative path: the first folder, in its composed Unicode form."""
    folder, _, rest = name.partition("/")
    return nfc(folder) if rest else NO_CLASS


# ---- walking -------------------------------------------------------------------------------------

FILE, SAME, LINK, OTHER = range(4)
Item = tuple[str, int, str]  # relative path, kind, and for SAME the file that it is


class _Walk:
    """All that lies below a folder, in order.

    What lies there itself is looked at first, so that afterwards links to it are known as such. A
    link to anything else stands for what it leads to.
    """

    def __init__(self, root: str, survey: Survey, loose: bool) -> None:
        self.root, self.survey, self.loose = root, survey, loose
        self.found = Found(Path(root))
        self.folders: dict[Identity, str] = {}  # all that were entered
        self.sounds: dict[int, str] = {}  # number of each sound's file -> its first path
        self.made: dict[str, bool] = {}  # folders that links lead to, and those around them
        self.above: set[Identity] = set()
        for parent in Path(root).resolve().parents:
            with suppress(OSError):
                self.above.add(identity(str(parent)))

    def walk(self) -> Found:
        """The files, what is left out, and the class folders."""
        found = self.found
        stack = [iter(self._below(""))]
        while stack:
            for name, kind, other in stack[-1]:
                if kind == LINK:
                    if deeper := self._linked(name):
                        stack.append(iter(deeper))
                        break
                elif kind == FILE:
                    found.files.append(name)
                elif kind == SAME:
                    found.left_out.append((name, _counts_there("the same file as", other)))
                else:
                    found.left_out.append((name, other))
            else:
                stack.pop()
        found.folders = sorted(set(found.folders))
        return found

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def _below(self, top: str) -> list[Item]:
        """All in a folder and in those below it, in order; links are named, and not followed."""
        items: list[Item] = []
        stack: list[Item | str] = [top]
        while stack:
            if isinstance(item := stack.pop(), str):
                stack += reversed(self._inside(item))
            else:
                items.append(item)
        return items

    def _inside(self, folder: str) -> list[Item | str]:
        """The files of a folder, then its folders; in the data folder itself all by their names."""
        is_class = bool(folder) and "/" not in folder
        if is_class:
            self.found.folders.append(nfc(folder))
        path = self._path(folder)
        try:
            if self.folders.setdefault(identity(path), folder) != folder:
                return [(folder, OTHER, LEADS_UP)]  # mounted in two places
            content = entries(path)
        except OSError as error:
            return [(folder or ".", OTHER, f"cannot be read: {error.strerror}")]
        if folder and self.survey.is_ours(path, content):
            if is_class:
                self.found.folders.remove(nfc(folder))
            return []
        files: list[Item | str] = []
        folders: list[Item | str] = []
        for entry in content:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if leads_to_folder(entry):
                if not hidden(entry.name, is_dir=True):
                    inner = (name, LINK, "") if entry.is_symlink() else name
                    (folders if folder else files).append(inner)
            elif not hidden(entry.name, is_dir=not folder) and (item := self._file(entry, name)):
                files.append(item)
        return files + folders

    def _file(self, entry: os.DirEntry[str], name: str) -> Item | None:
        """What a file is taken for; None where nothing is to be said of it."""
        kind = suffix(name)
        if kind not in AUDIO_EXTENSIONS:
            reason = f"not a WAV, FLAC, OGG, MP3 or AIFF ({kind or 'no extension'})"
            return (name, OTHER, reason) if "/" in name or kind in CONVERTIBLE else None
        if "/" not in name and not self.loose:
            return name, OTHER, NOT_IN_CLASS
        if products.GENERATED.fullmatch(entry.name):
            return name, OTHER, GENERATED
        if entry.is_symlink():
            return name, LINK, ""
        if not entry.is_file(follow_symlinks=False):
            return name, OTHER, IRREGULAR
        first = self.sounds.setdefault(entry.inode(), name)
        same = first is not name and self._are_one(first, name)
        return (name, SAME, first) if same else (name, FILE, "")

    def _linked(self, name: str) -> list[Item]:
        """What a link stands for; a file that counts is added."""
        path = self._path(name)
        try:
            found = os.stat(path)
        except OSError:
            with suppress(OSError):
                annex = ".git/annex/" in os.readlink(path)
                return [(name, OTHER, NOT_FETCHED if annex else DANGLING)]
            return [(name, OTHER, DANGLING)]
        if stat.S_ISDIR(found.st_mode):
            return self._linked_folder(name, (found.st_dev, found.st_ino))
        if not stat.S_ISREG(found.st_mode):
            return [(name, OTHER, IRREGULAR)]
        first = self.sounds.setdefault(found.st_ino, name)
        if first is not name and self._are_one(first, name):
            return [(name, OTHER, _counts_there("a link to", first))]
        return [(name, FILE, "")]

    def _linked_folder(self, name: str, known: Identity) -> list[Item]:
        if known in self.above or self.folders.get(known) == "":
            return [(name, OTHER, LEADS_UP)]
        if known in self.folders:
            there = self.folders[known]
            if self._path(there) in self.survey.ours:
                self.survey.ours.add(self._path(name))
                return []
            if name.startswith(f"{there}/"):
                return [(name, OTHER, LEADS_UP)]
            return [(name, OTHER, f"a link to {there}, where its sounds count")]
        real = Path(self._path(name)).resolve()
        for folder in map(str, (real, *real.parents)):
            if identity(folder) in self.above:
                break
            if self._is_made(folder):
                self.survey.ours.add(self._path(name))
                return []
        return self._below(name)

    def _is_made(self, folder: str) -> bool:
        """`products.is_made`, once a folder: thousands of links may lead into one."""
        if folder not in self.made:
            self.made[folder] = False
            with suppress(OSError):
                self.made[folder] = products.is_made(folder, os.listdir(folder))
        return self.made[folder]

    def _are_one(self, first: str, second: str) -> bool:
        """Whether two paths lead to one file, as their numbers say; some file systems have none."""
        one, other = self._path(first), self._path(second)
        try:
            a, b = os.stat(one), os.stat(other)
        except OSError:
            return False
        linked = a.st_nlink > 1 or os.path.realpath(one) == os.path.realpath(other)
        return os.path.samestat(a, b) and a.st_ino != 0 and linked


def _counts_there(how: str, name: str) -> str:
    folder = class_of(name)
    where = "beside the class folders" if folder == NO_CLASS else f"of {folder}"
    return f"{how} a sound {where}, where it counts"
