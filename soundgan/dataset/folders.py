"""What lies in a folder, looked at once: sounds, other files, folders; its own products apart."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter

from soundgan.dataset import products
from soundgan.files import nfc

AUDIO_EXTENSIONS = {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3"}
AUDIO_EXTENSIONS |= {".aif", ".aiff", ".aifc"}
CONVERTIBLE = {  # sound that is not read here, and that ffmpeg reads
    *(".3gp", ".aac", ".ac3", ".amr", ".ape", ".au", ".avi", ".caf", ".dsf", ".flv", ".m4a"),
    *(".m4b", ".mka", ".mkv", ".mov", ".mp2", ".mp4", ".mpc", ".mpeg", ".mpg", ".ra", ".snd"),
    *(".spx", ".tta", ".w64", ".webm", ".weba", ".wma", ".wmv", ".wv"),
}
SOUNDS = AUDIO_EXTENSIONS | CONVERTIBLE
TABLES = {".csv", ".json", ".jsonl", ".parquet", ".tsv", ".xls", ".xlsx"}

Identity = tuple[int, int]  # device and number of a file or folder, however it is linked


def suffix(name: str) -> str:
    """Extension of a file's name, in small letters, with its dot."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def is_sound(name: str) -> bool:
    """Whether a file is, by its name, a sound (readable or not) that was not made here."""
    return suffix(name) in SOUNDS and not products.GENERATED.fullmatch(name)


def identity(path: str) -> Identity:
    """Which file or folder a path leads to; raises OSError."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def entries(path: str) -> list[os.DirEntry[str]]:
    """Everything in a folder, sorted by composed names; raises OSError."""
    with os.scandir(path) as found:
        content = sorted(found, key=attrgetter("name"))
    if not all(entry.name.isascii() for entry in content):
        content.sort(key=lambda entry: nfc(entry.name))
    return content


def leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link that goes in circles is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


OF_SYSTEMS = {  # folders that Windows, Linux and network drives put among others
    *("$RECYCLE.BIN", "System Volume Information", "lost+found", "#recycle", "#snapshot", "@eaDir"),
}


def hidden(name: str, is_dir: bool) -> bool:
    """Whether a file or folder is none of the user's sounds by its name."""
    return name.startswith((".", "_") if is_dir else ".") or (is_dir and name in OF_SYSTEMS)


@dataclass
class Look:
    """What a folder holds, for telling what kind of folder it is."""

    sounds: list[str] = field(default_factory=list)  # files right in it, also convertible ones
    folders: list[str] = field(default_factory=list)  # those with sounds in or below them
    silent: list[str] = field(default_factory=list)  # those without
    tables: list[str] = field(default_factory=list)  # files that may say what the sounds are


class Survey:
    """Looks into folders, each once, and knows which of them this program wrote.

    `outputs`: folders that hold runs, whatever they look like. `ours`: paths that were met and are
    products of this program.
    """

    def __init__(self, outputs: Iterable[str] = ()) -> None:
        self.outputs: set[Identity] = set()
        for path in outputs:
            with suppress(OSError, ValueError):  # not there yet
                self.outputs.add(identity(path))
        self.ours: set[str] = set()
        self._looks: dict[str, Look] = {}
        self._holding: dict[str, bool] = {}

    def look(self, path: str) -> Look:
        """What the folder holds; nothing where it cannot be read."""
        if path not in self._looks:
            self._looks[path] = self._look(path)
        return self._looks[path]

    def _look(self, path: str) -> Look:
        look = Look()
        with suppress(OSError):
            for entry in entries(path):
                name, is_dir = entry.name, leads_to_folder(entry)
                if hidden(name, is_dir):
                    continue
                inner = os.path.join(path, name)
                if not is_dir:
                    if is_sound(name):
                        look.sounds.append(name)
                    elif suffix(name) in TABLES:
                        look.tables.append(name)
                elif self.holds_sounds(inner):
                    look.folders.append(name)
                elif not self.is_ours(inner):
                    look.silent.append(name)
        return look

    def holds_sounds(self, path: str) -> bool:
        """Whether a sound lies in a folder or below it that this program did not make."""
        if path not in self._holding:
            self._holding[path] = self._holds_sounds(path)
        return self._holding[path]

    def _holds_sounds(self, top: str) -> bool:
        seen: set[Identity] = set()
        stack = [top]
        while stack:
            path = stack.pop()
            with suppress(OSError):
                if (known := identity(path)) in seen:
                    continue
                seen.add(known)
                found = entries(path)
                if products.is_made(path, (entry.name for entry in found)):
                    self.ours.add(path)
                    continue
                for entry in found:
                    is_dir = leads_to_folder(entry)
                    if hidden(entry.name, is_dir):
                        continue
                    if is_dir:
                        stack.append(os.path.join(path, entry.name))
                    elif is_sound(entry.name):
                        while path != top:  # so do those between, which are soon asked for
                            self._holding[path] = True
                            path = os.path.dirname(path)
                        return True
        return False

    def is_ours(self, path: str, found: list[os.DirEntry[str]] | None = None) -> bool:
        """Whether a folder (which holds `found`) is a product of this program as a whole.

        A run, a folder of generated sounds, or a folder of runs that holds no sounds but theirs.
        """
        if path in self.ours:
            return True
        try:
            found = entries(path) if found is None else found
            own = products.is_made(path, (entry.name for entry in found))
            if not own:
                inner = [entry.name for entry in found if leads_to_folder(entry)]
                runs = bool(self.outputs) and identity(path) in self.outputs
                runs = runs or products.holds_runs(path, inner)
                own = runs and not self.holds_sounds(path)
        except OSError:
            return False
        if own:
            self.ours.add(path)
        return own
