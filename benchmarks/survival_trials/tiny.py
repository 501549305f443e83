"""A tiny run of the program, with all that a run has, and whether two of them are equal."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from soundgan import tensor_files
from soundgan.settings import GRIFFIN_LIM

RATE = 8000  # Hz
CLIPS = {"high": (2500, 20), "low": (300, 6)}  # Hz and clips; of twenty, some are held out
CONSTANTS = {
    "device": "cpu",
    "vocoder": GRIFFIN_LIM,
    "batch-size": 8,
    "epochs": 3,
    "sample-every": 3,
    "score-every": 2,
    "score-clips": 4,
    "decode-threads": 1,
    "background": "off",
    "sound.sample-rate": RATE,
    "sound.n-fft": 256,
    "sound.hop": 64,
    "sound.n-mels": 16,
    "sound.f-max": 4000.0,
    "sound.frames": 32,
    "generator.latent-dim": 8,
    "generator.channels": (16, 8),
    "generator.norm-groups": 4,
    "critic.channels": (8, 16),
    "critic.norm-groups": 4,
}


# In a checkpoint: constants, and what is seconds or has a column of them.
NOT_COMPARED = ("/config", "/seconds", "/log", "/pace/costs", "/pace/last", "/pace/at")


@dataclass(frozen=True)
class Setting:
    """What is trained in a trial: made-up tones with tiny constants, or what a person names."""

    data: Path
    recipe: str = "sn-wgan-gp"
    constants: tuple[tuple[str, object], ...] = tuple(CONSTANTS.items())

    def words(self, output: Path, **changes: object) -> list[str]:
        """What follows `train.py` on a command line; `changes`: of constants (`_` for `-`)."""
        values = dict(self.constants) | {n.replace("_", "-"): v for n, v in changes.items()}
        words = [self.recipe, "--data-dir", str(self.data), "--output-dir", str(output)]
        for name, value in values.items():
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
        return words

    def run_dir(self, output: Path) -> Path:
        """The folder of the run below its output folder."""
        return output / dict(self.constants).get("run-name", self.recipe)


def write_tones(folder: Path, seconds: float = 0.35, rate: int = RATE) -> Path:
    """Class folders of tones with noise of their own, from which clips are held out."""
    shutil.rmtree(folder, ignore_errors=True)  # of trials before
    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * rate)) / rate
    for name, (hz, clips) in CLIPS.items():
        (folder / name).mkdir(parents=True)
        for number in range(clips):
            wave = 0.4 * np.sin(2 * np.pi * hz * rng.uniform(0.9, 1.1) * t)
            wave += 0.02 * rng.standard_normal(len(t))
            soundfile.write(folder / name / f"take{number}x.wav", wave, rate)
    return folder


# ---- whether two runs are equal ------------------------------------------------------------------


def differences(a: Path, b: Path) -> list[str]:
    """Names of what is not the same in two runs: weights, optimisers, logs, sounds, scores, lists.

    Seconds and the folders' own names are left aside.
    """
    found = [f"{name} is missing" for name in sorted(_names(a) - _names(b))]
    found += [f"{name} is new" for name in sorted(_names(b) - _names(a))]
    for name in sorted(_names(a) & _names(b)):
        if not same_file(a / name, b / name):
            found.append(name)
    for name in ("last.pt", "best.pt"):
        pair = (a / "checkpoints" / name, b / "checkpoints" / name)
        if pair[0].exists() or pair[1].exists():
            found += [f"{name}: {what}" for what in state_differences(*pair)]
    return found


def _names(run: Path) -> set[str]:
    """Files of a run that must be the same; checkpoints are looked into."""
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    kept = {"config.json", ".lock", "index.html"}
    return {n for n in names if n not in kept and not n.startswith("checkpoints/") and whose(n)}


def whose(name: str) -> bool:
    """Whether a file is one of the run's own, and not one that was set aside."""
    return ".old" not in name and "damaged" not in name


def same_file(a: Path, b: Path) -> bool:
    """Whether two files are the same, seconds in tables left aside."""
    if a.suffix == ".csv":
        return _rows(a) == _rows(b)
    if a.suffix == ".json":
        return _without_seconds(json.loads(a.read_text())) == _without_seconds(
            json.loads(b.read_text())
        )
    return a.read_bytes() == b.read_bytes()


def sounds_in(folder: Path) -> dict[str, bytes]:
    """Content of the WAVs in a folder, by their names."""
    return {path.name: path.read_bytes() for path in folder.glob("*.wav")}


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return [_without_seconds(row) for row in csv.DictReader(file)]


def _without_seconds(table: dict) -> dict:
    return {name: value for name, value in table.items() if name != "seconds"}


def state_differences(a: Path, b: Path) -> list[str]:
    """Names of what is not the same in two checkpoints, constants and seconds aside (the log has
    these, too, and is compared as a file; what samples and scores cost is in seconds)."""
    try:
        states = [flatten(tensor_files.read(path)) for path in (a, b)]
    except (OSError, tensor_files.Damaged) as error:
        return [f"cannot be read ({error})"]
    names = sorted(set(states[0]) | set(states[1]))
    own = [name for name in names if not name.startswith(NOT_COMPARED)]
    return [name for name in own if not _equal(states[0].get(name), states[1].get(name))]


def _equal(a: object, b: object) -> bool:
    if hasattr(a, "numpy") and hasattr(b, "numpy"):
        a, b = a.numpy(), b.numpy()
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and a == b


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Nested tables and lists as one table, by their paths."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)) and len(value) < 100:
        items = enumerate(value)
    else:
        return {prefix: value}
    return {k: v for n, x in items for k, v in flatten(x, f"{prefix}/{n}").items()}
