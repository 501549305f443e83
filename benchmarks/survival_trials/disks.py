"""A disk that is full at some moment: the file is named, no half file is left, and it goes on.

Where this process may mount file systems, the disk is a real one, in memory and of a chosen size;
elsewhere writing is refused after as many bytes. With space again, the same command must end where
a run ends that never lacked any.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile
from safetensors import safe_open

from soundgan import files, tensor_files
from survival_trials import operations
from survival_trials.children import Outcome
from survival_trials.results import LOST, SILENT, SURVIVED, TRACEBACK, Trial, numbered
from survival_trials.scene import Scene
from survival_trials.tiny import differences, sounds_in

TRAIN, GENERATE = "disk full while it trains", "disk full while it generates"
ROOM = 256 << 20  # bytes of a disk with space again
SOUNDS = 24  # of each class that are generated
FULL = "No space left on device"


@dataclass(frozen=True)
class Disk:
    """A folder whose space is limited."""

    folder: Path
    real: bool  # a file system of its own

    def limit(self, size: int) -> Callable[[], object]:
        """Let it hold `size` bytes; what a process that writes to it is to call first."""
        if self.real:
            _mount("-o", f"remount,size={size}", str(self.folder))
            return lambda: None
        return (lambda: operations.disk_of(self.folder, size)) if size < ROOM else lambda: None


def make_disk(folder: Path) -> Disk:
    """A disk on an empty folder, with all the room it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _mount("-t", "tmpfs", "-o", f"size={ROOM}", "soundgan-trials", str(folder))
        return Disk(folder, True)
    except (OSError, subprocess.CalledProcessError):
        return Disk(folder, False)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True, timeout=20)


def remove_disk(disk: Disk) -> None:
    if disk.real:
        subprocess.run(["umount", str(disk.folder)], check=True, capture_output=True, timeout=20)


def empty(disk: Disk) -> Path:
    """An empty output folder on the disk."""
    output = disk.folder / "outputs"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    return output


def full_disks(scene: Scene, count: int) -> Iterator[Trial]:
    """`count` sizes of disks, every fourth for sounds that are generated."""
    numbers = list(numbered(scene.seed, "disks", count, scene.only))
    disk = make_disk(scene.fresh("disk") / "mounted")
    try:
        sounds, needed = {}, _size(scene.whole.parent)
        if any(number % 4 == 3 for number, _ in numbers):
            sounds = _generated(scene, disk)
        for number, rng in numbers:
            if number % 4 == 3:
                yield _generate(scene, disk, Trial("disks", number, GENERATE), rng, sounds)
            else:
                yield _train(scene, disk, Trial("disks", number, TRAIN), rng, needed)
    finally:
        remove_disk(disk)


def _size(folder: Path) -> int:
    """Bytes of all files below a folder, in pages."""
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(-(-size // 4096) * 4096 for size in sizes)


def _train(scene: Scene, disk: Disk, trial: Trial, rng: random.Random, needed: int) -> Trial:
    size = int(rng.uniform(0.02, 0.95) * needed)
    disk.limit(ROOM)
    output = empty(disk)
    words = scene.words(output)
    first = scene.run("train", words, disk.limit(size))
    trial = judged(trial, first, output)
    if trial.outcome != SURVIVED:
        return replace(trial, note=f"{size} bytes: {trial.note}")
    again = scene.run("train", words, disk.limit(ROOM))
    if again.code or again.traced:
        return replace(trial, outcome=LOST, note=f"{size} bytes, then space: {again.last}")
    if found := differences(scene.whole, scene.run_dir(output)):
        note = f"{size} bytes, then not the same: {', '.join(found[:8])}"
        return replace(trial, outcome=SILENT, note=note)
    return trial


def _words(scene: Scene, output: Path) -> list[str]:
    words = [str(scene.whole), "--device", "cpu", "--count", str(SOUNDS)]
    return [*words, "--out", str(output / "new")]


def _generated(scene: Scene, disk: Disk) -> dict[str, bytes]:
    output = empty(disk)
    ended = scene.run("generate", _words(scene, output))
    if ended.code:
        raise RuntimeError(f"generate.py fails with all the room it needs: {ended.last}")
    return sounds_in(output / "new")


def _generate(
    scene: Scene, disk: Disk, trial: Trial, rng: random.Random, sounds: dict[str, bytes]
) -> Trial:
    size = int(rng.uniform(0.02, 0.9) * sum(-(-len(w) // 4096) * 4096 for w in sounds.values()))
    disk.limit(ROOM)
    output = empty(disk)
    words = _words(scene, output)
    trial = judged(trial, scene.run("generate", words, disk.limit(size)), output)
    if trial.outcome != SURVIVED:
        return replace(trial, note=f"{size} bytes: {trial.note}")
    again = scene.run("generate", words, disk.limit(ROOM))
    if again.code or again.traced:
        return replace(trial, outcome=LOST, note=f"{size} bytes, then space: {again.last}")
    made = sounds_in(output / "new")
    if made != sounds:
        odd = [name for name in sorted({*made, *sounds}) if made.get(name) != sounds.get(name)]
        return replace(trial, outcome=SILENT, note=f"{size} bytes, then not the same: {odd[:6]}")
    return trial


def judged(trial: Trial, ended: Outcome, output: Path) -> Trial:
    """How a command ended whose disk was full: is a file named, is none half written?"""
    if ended.traced or ended.code < 0:
        return replace(trial, outcome=TRACEBACK, note=ended.last)
    if ended.code == 0:  # what may lack was not written, and nothing else lacked room
        return replace(trial, how="enough")
    if ended.code != 2 or ended.hung or FULL not in ended.said:
        return replace(trial, outcome=LOST, note=f"exit code {ended.code}: {ended.last}")
    if not any(str(output) in line for line in ended.said.splitlines() if FULL in line):
        return replace(trial, outcome=LOST, note=f"it names no file: {ended.last}")
    if halves := half_files(output):
        return replace(trial, outcome=LOST, note=f"half files: {', '.join(halves[:6])}")
    return replace(trial, how="named")


def half_files(output: Path) -> list[str]:
    """Files that are not whole, and those that were being written."""
    found = []
    for path in sorted(output.rglob("*")):
        if files.UNFINISHED.fullmatch(path.name) or (path.is_file() and not _whole(path)):
            found.append(str(path.relative_to(output)))
    return found


def _whole(path: Path) -> bool:
    """Whether a file is what its name says."""
    if path.name in (".lock", files.GENERATED_MARK) or path.name.endswith(".lock"):
        return True  # a mark, which may be empty
    try:
        if path.suffix == ".wav":
            soundfile.read(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".pt":
            tensor_files.read(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, "numpy") as tensors:
                list(tensors.keys())
        elif path.suffix == ".html":
            return path.read_text().rstrip().endswith("</html>")
        elif path.suffix == ".png":
            return path.read_bytes().endswith(b"IEND\xaeB`\x82")
        return path.stat().st_size > 0
    except Exception:  # whatever a reader says of half a file
        return False
